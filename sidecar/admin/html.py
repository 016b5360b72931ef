"""HTML in pieces: the one place where values become text on the page. Whatever is not made here is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan
from typing import Any, Final

NONE: Final = '<span class="none" aria-label="none">&ndash;</span>'


def text(value: object) -> str:
    """Any value as escaped text; nothing to show is a dash."""
    if value is None or value == "":
        return NONE
    if isinstance(value, list | tuple):
        return "<br>".join(map(text, value)) or NONE
    return escape(str(value), quote=True)


def attribute(value: object) -> str:
    """Any value between double quotes."""
    return escape(str(value), quote=True)


def badge(word: object, *, kind: str) -> str:
    """A word with a state. `kind` is `good`, `bad` or `warn`; colour is never its only sign."""
    sign = {"good": "✓", "bad": "✗", "warn": "!"}[kind]
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {text(word)}</span>'


def code(value: object) -> str:
    """Something to copy."""
    return f"<code>{text(value)}</code>"


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """A list of names and values; the values are HTML."""
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in entries)}</dl>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table whose cells are HTML; columns that begin with `#` hold numbers, those that begin with `~` may break anywhere."""
    classes = [{"#": "number", "~": "long"}.get(column[0], "") for column in columns]
    names = [column.lstrip("#~") for column in columns]
    head = "".join(f'<th scope="col"{_class(one)}>{text(name)}</th>' for one, name in zip(classes, names, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{_class(one)}>{cell}</td>' for one, cell in zip(classes, cells, strict=True))}</tr>" for cells in rows
    )
    if not body:
        return '<p class="empty">None.</p>'
    label = attribute(caption)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0"><table{_class(kind)}>'
        f'<caption class="hidden">{label}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def more(hidden: int, path: str) -> str:
    """Where the rest of a list is."""
    return f'<p class="more">{hidden:,} more: <a href="{path}">{path}</a></p>' if hidden > 0 else ""


def field(name: str, label: str, value: str, **attributes: object) -> str:
    """A labelled input; attributes that are True have no value."""
    extra = "".join(f" {key}" if said is True else f' {key}="{attribute(said)}"' for key, said in attributes.items())
    return f'<label>{label} <input name="{name}" value="{attribute(value)}"{extra}></label>'


def choice(name: str, label: str, value: str, choices: Iterable[tuple[str, str]]) -> str:
    """A labelled selection of (value, words)."""
    options = "".join(
        f'<option value="{attribute(one)}"{" selected" if one == value else ""}>{text(words)}</option>' for one, words in choices
    )
    return f'<label>{label} <select name="{name}">{options}</select></label>'


def hidden(values: Mapping[str, Any]) -> str:
    """Fields that a form carries along; empty ones are left out."""
    return "".join(f'<input type="hidden" name="{name}" value="{attribute(value)}">' for name, value in values.items() if value)


# Numbers as people read them: three digits, a unit, a dash for what is not known.


def rate(value: float) -> str:
    """Per second."""
    if value == 0:
        return "0"
    if value < 0.1:
        return "&lt;0.1"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def share(part: float, whole: float) -> str:
    """A percentage; a small one does not become 0."""
    if not whole:
        return NONE
    percent = 100 * part / whole
    if not percent or percent >= 99.95:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if percent >= 0.1 else "&lt;0.1%"


def seconds(value: float) -> str:
    """A duration."""
    if isnan(value):
        return NONE
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1000:.0f} ms" if value >= 0.00995 else f"{value * 1000:.1f} ms"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"

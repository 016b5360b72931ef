"""Types of the document in words: for messages and for the reference."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from msgspec import inspect

from sidecar.config.node import Node
from sidecar.config.problem import shown
from sidecar.model.quantity import DURATION, SIZE

_YES: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def flat_union(kind: inspect.Type) -> list[inspect.Type]:
    """The alternatives of a type, without annotations and `UNSET`; null is the last."""
    if isinstance(kind, inspect.Metadata):
        return flat_union(kind.type)
    if isinstance(kind, inspect.UnionType):
        kinds = [one for part in kind.types for one in flat_union(part)]
        return sorted(kinds, key=lambda one: isinstance(one, inspect.NoneType))
    return [kind]


def close_match(text: str, known: Collection[str]) -> str | None:
    """The one of the lower-case words `known` that `text` probably means."""
    from difflib import get_close_matches  # noqa: PLC0415 - 0.4 MB for documents with mistakes

    return next(iter(get_close_matches(text[:60].lower(), known, n=1, cutoff=0.6)), None)


def noun(kinds: list[inspect.Type]) -> str:
    """`a duration`, `a whole number from 1 to 65535`, `one of Reverse, Forward`."""
    kinds = [one for one in kinds if not isinstance(one, inspect.NoneType)]
    if any(_pattern(one) == SIZE for one in kinds):
        return "a size"
    words = [_noun(one) for one in kinds]
    return " or ".join(dict.fromkeys(words))


def choices(kinds: list[inspect.Type]) -> list[str]:
    """The words that an enumeration knows."""
    out: list[str] = []
    for one in kinds:
        if isinstance(one, inspect.EnumType):
            out.extend(str(member.value) for member in one.cls)
        elif isinstance(one, inspect.LiteralType):
            out.extend(str(value) for value in one.values)
    return out


def _pattern(kind: inspect.Type) -> str | None:
    return kind.pattern if isinstance(kind, inspect.StrType) else None


def _noun(kind: inspect.Type) -> str:
    match kind:
        case inspect.StrType(pattern=pattern):
            return "a duration" if pattern == DURATION else "a name" if pattern else "text"
        case inspect.IntType() | inspect.FloatType():
            return _number(kind)
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType() | inspect.LiteralType():
            words = choices([kind])
            return words[0] if len(words) == 1 else "one of " + ", ".join(words)
        case inspect.ListType():
            return "a list"
        case _:
            return "a mapping"


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    word = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    if kind.gt is not None:
        return f"{word} above {kind.gt}"
    if kind.ge is None:
        return word
    if kind.le is None or kind.le >= 2**31 - 1:
        return f"{word}, {kind.ge} or more"
    return f"{word} from {kind.ge} to {kind.le}"


def describe(kinds: list[inspect.Type], node: Node) -> str:
    """What is wrong with a value of the wrong type or out of range, and what to write instead."""
    value = node.value
    wanted = noun(kinds)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and "number" in wanted:
        return f"{value} is out of range (write {wanted})"
    return f"{_got(value)} is not {wanted}{_advice(kinds, wanted, value)}"


def _got(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return shown(value) if isinstance(value, str) else str(value)


def _advice(kinds: list[inspect.Type], wanted: str, value: Any) -> str:
    words = choices(kinds)
    if words:
        close = close_match(value, [word.lower() for word in words]) if isinstance(value, str) else None
        return (
            f" (did you mean {next(word for word in words if word.lower() == close)}?)"
            if close is not None
            else f" (write {' or '.join(words[:6])})"
        )
    if "a duration" in wanted:
        return (
            f" (write {value}s, or {value}ms)"
            if type(value) is int and 0 <= value < 100_000
            else " (write for example 250ms, 10s or 1h30m)"
        )
    if wanted == "a size":
        return " (write for example 64Ki, 10Mi or a number of bytes)"
    if "a name" in wanted:
        return " (letters, digits and - _ . within, a letter or digit at both ends, at most 63 characters, 253 for routes)"
    if wanted == "true or false":
        return (
            f" (write {_YES[value.lower()]})"
            if isinstance(value, str) and value.lower() in _YES
            else " (write one of the two, without quotes)"
        )
    if isinstance(value, str) and value.isdigit() and "number" in wanted:
        return " (write it without quotes, and without leading zeros)"
    return _container_advice(wanted, value)


def _container_advice(wanted: str, value: Any) -> str:
    if wanted == "text" and not isinstance(value, (dict, list)) and value is not None:
        word = str(value).lower() if isinstance(value, bool) else value
        return f' (put it in quotes: "{word}")'
    if wanted == "a list":
        return " (begin each item with `- `, or put them in [ ])"
    if "a mapping" in wanted:
        return " (write `key: value` lines, indented below)"
    return f" (write {wanted})"

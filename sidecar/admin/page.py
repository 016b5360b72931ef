"""The page for people: one HTML document without scripts and without external assets; every value is escaped.

Colour is never the only sign of a state, and it follows the reader's light or dark preference.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from sidecar.admin.views import MAX_ROUTES
from sidecar.model.quantity import format_duration

STYLE: Final = files("sidecar.admin").joinpath("page.css").read_text("utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_LINKS: Final = (
    "/readiness",
    "/config",
    "/config/problems",
    "/listeners",
    "/upstreams",
    "/connections",
    "/recent",
    "/runtime",
    "/metrics",
    "/version",
)
_HEAD: Final = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<link rel="icon" href="data:,"><title>Outrider</title><style>{STYLE}</style></head><body>'
)


def page_parts(view: Mapping[str, Any], question: Mapping[str, str], answer: str | None) -> Iterator[str]:
    """The page of `view` (views.overview) in pieces. `question` refills the form; `answer` is what it led to."""
    yield _HEAD
    yield from _banner(view)
    yield "<main>"
    yield from _readiness(view["readiness"])
    yield from _config(view)
    yield from _explain(question, answer, [listener["name"] for listener in view["listeners"]])
    yield from _section("Listeners", _table(view["listeners"], ("name", "mode", "address", "port", "protocol", "state"), "/listeners"))
    yield from _section("Upstreams", _upstreams(view["upstreams"]))
    yield from _section("Routes", _table(view["routes"], _ROUTE_COLUMNS, "/config", total=view["routesTotal"]))
    yield from _section("Recent failures", _table(view["failures"], _FAILURE_COLUMNS, "/recent"))
    yield "</main><footer><nav aria-label='JSON'>As JSON: "
    yield " ".join(f'<a href="{path}">{path}</a>' for path in _LINKS)
    yield "</nav></footer></body></html>"


_ROUTE_COLUMNS: Final = ("name", "listener", "hostnames", "matches", "upstreams")
_FAILURE_COLUMNS: Final = (
    "time",
    "method",
    "path",
    "status",
    "reason",
    "clock",
    "detail",
    "durationMs",
    "listener",
    "route",
    "upstream",
    "requestId",
)
_LONG: Final = frozenset(("path", "detail", "message", "problem", "hostnames", "matches"))
"""Columns whose text may break anywhere; the others keep to one line and the table scrolls."""


def _text(value: object) -> str:
    """Any value as escaped text."""
    if value is None or value == "":
        return '<span class="none">-</span>'
    if isinstance(value, list | tuple):
        return "<br>".join(_text(item) for item in value) or _text(None)
    return escape(str(value), quote=True)


def _badge(word: str, *, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{"✓" if good else "✗"} {escape(word)}</span>'


def _section(title: str, content: Iterable[str]) -> Iterator[str]:
    anchor = title.lower().replace(" ", "-")
    yield f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>'
    yield from content
    yield "</section>"


def _banner(view: Mapping[str, Any]) -> Iterator[str]:
    state = str(view["state"])
    yield f"<header><h1>Outrider <small>{_text(view['version'])}</small></h1><p>"
    yield _badge(state, good=bool(view["readiness"]["ready"]))
    yield f" · up {format_duration(float(int(view['uptimeSeconds'])))}"
    yield ' · <a href="/">refresh</a></p></header>'


def _readiness(readiness: Mapping[str, Any]) -> Iterator[str]:
    def items() -> Iterator[str]:
        yield "<ul>"
        for check in readiness["checks"]:
            detail = f": {_text(check['detail'])}" if check["detail"] else ""
            yield f"<li>{_badge(check['name'], good=check['ok'])}{detail}</li>"
        yield "</ul>"

    return _section("Readiness", items())


def _config(view: Mapping[str, Any]) -> Iterator[str]:
    config, problems, warnings = view["config"], view["problems"], view["warnings"]

    def content() -> Iterator[str]:
        if config["revision"] is None:
            yield "<p>No valid document has come yet.</p>"
        else:
            yield f"<dl>{_pairs(config, source='source', revision='revision', hash='hash', loadedAt='active since')}</dl>"
        for source in view["sources"]:
            if not source["connected"]:
                yield f'<p class="bad">✗ {_text(source["name"])}: cannot be read now; the log says why</p>'
        if problems["problems"]:
            yield f'<h3 class="bad">✗ The newest document ({_text(problems["source"])}, {_text(problems["revision"])}) was refused</h3>'
            yield from _table(problems["problems"], ("line", "column", "path", "message"), "/config/problems")
        if warnings:
            yield "<h3>Warnings</h3><ul>" + "".join(f"<li>{_text(warning)}</li>" for warning in warnings[:MAX_ROUTES]) + "</ul>"

    return _section("Configuration", content())


def _pairs(values: Mapping[str, Any], **labels: str) -> str:
    return "".join(f"<dt>{label}</dt><dd>{_text(values[key])}</dd>" for key, label in labels.items())


def _explain(question: Mapping[str, str], answer: str | None, listeners: Sequence[str]) -> Iterator[str]:
    def content() -> Iterator[str]:
        yield '<form action="/#explain-a-request" method="get">'
        yield _field("method", "Method", question.get("method") or "GET", 'size="8"')
        yield _field("url", "URL", question.get("url", ""), 'size="50" required placeholder="http://orders.shop.svc/v1/orders"')
        yield _field("header", "Header", question.get("header", ""), 'size="24" placeholder="x-tenant: a"')
        yield _choice("listener", "Listener", question.get("listener", ""), listeners)
        yield '<button type="submit">Explain</button></form>'
        if answer is not None:
            yield f'<pre tabindex="0" aria-label="Explanation">{escape(answer)}</pre>'

    return _section("Explain a request", content())


def _field(name: str, label: str, value: str, attributes: str) -> str:
    return f'<label>{label} <input name="{name}" value="{escape(value, quote=True)}" {attributes}></label>'


def _choice(name: str, label: str, value: str, choices: Sequence[str]) -> str:
    options = "".join(f"<option{' selected' if choice == value else ''}>{escape(choice)}</option>" for choice in choices)
    return f'<label>{label} <select name="{name}"><option value="">guess</option>{options}</select></label>'


def _upstreams(upstreams: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    def rows() -> Iterator[dict[str, object]]:
        for upstream in upstreams:
            pool = upstream["pool"]
            shared = {
                "upstream": upstream["name"],
                "connections": f"{pool['active']} active, {pool['idle']} idle, {pool['connecting']} connecting",
                "pending": pool["pending"],
                "problem": upstream["problem"],
            }
            for endpoint in upstream["endpoints"] or [{}]:
                yield {**shared, **{key: endpoint.get(key) for key in ("address", "state", "weight", "inFlight", "requests", "failures")}}
                shared = {}

    columns = ("upstream", "address", "state", "weight", "inFlight", "requests", "failures", "connections", "pending", "problem")
    yield from _table(list(rows()), columns, "/upstreams", cell=_endpoint_cell)


def _endpoint_cell(column: str, value: object) -> str:
    if column == "state" and value is not None:
        return _badge(str(value), good=value == "healthy")
    return _text(value)


def _plain_cell(_column: str, value: object) -> str:
    return _text(value)


def _table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    more: str,
    *,
    cell: Callable[[str, object], str] = _plain_cell,
    total: int = 0,
) -> Iterator[str]:
    if not rows:
        yield "<p>None.</p>"
        return
    yield '<div class="wide" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{column}</th>' for column in columns)
    yield "</tr></thead><tbody>"
    for row in rows[:MAX_ROUTES]:
        cells = (f"<td{' class=long' if column in _LONG else ''}>{cell(column, row.get(column))}</td>" for column in columns)
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if (hidden := max(total, len(rows)) - MAX_ROUTES) > 0:
        yield f'<p>{hidden} more: <a href="{more}">{more}</a></p>'

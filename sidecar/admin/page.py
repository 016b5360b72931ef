"""The page for people: one HTML document, nothing from elsewhere, readable without its script.

The script (static/page.js) only asks `GET /page` for the parts that change and puts them in place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from sidecar.admin.context import LOG_LEVELS
from sidecar.admin.html import attribute, choice, code, field, hidden, text
from sidecar.admin.parts import PARTS, news

_STATIC: Final = files("sidecar.admin").joinpath("static")
STYLE: Final = _STATIC.joinpath("page.css").read_text("utf-8")
SCRIPT: Final = _STATIC.joinpath("page.js").read_text("utf-8")
_LOGO: Final = _STATIC.joinpath("logo.svg").read_text("utf-8")

REFRESH_SECONDS: Final = 5
"""How often the page loads itself again where there are no scripts and the reader wants it."""
LINKS: Final = (
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
_SECTIONS: Final = (("routes", "Routes"), ("failures", "Recent failures"), ("upstreams", "Upstreams"), ("explain", "Explain a request"))
_ASIDE: Final = (("readiness", "Readiness"), ("configuration", "Configuration"), ("listeners", "Listeners"), ("runtime", "Runtime"))


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_digest(STYLE)}",
        f"script-src {_digest(SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
QUESTION: Final = ("method", "url", "header", "listener")
"""The fields of the explain form."""


def page_parts(view: Mapping[str, Any], asked: Mapping[str, str], answer: str | None, host: str) -> Iterator[str]:
    """The page of `view` (board.Board) in pieces. `asked` refills the forms; `answer` is what the question led to.

    `host`: where the reader found this page.
    """
    yield _head(asked)
    yield from _banner(view, asked)
    yield '<main id="main" tabindex="-1">'
    yield f'<section aria-labelledby="traffic"><h2 id="traffic" class="hidden">Traffic</h2><div class="tiles" data-part="tiles">{PARTS["tiles"](view)}</div>'
    yield f'<p class="span" data-part="span">{PARTS["span"](view)}</p></section><div class="columns"><div class="wide-column">'
    for name, title in _SECTIONS:
        yield _section_start(name, title)
        if name == "explain":
            yield _explain(asked, answer, [listener["name"] for listener in view["listeners"]])
        else:
            yield _filter(asked, view["filter"]) if name == "routes" else ""
            yield _part(name, view)
        yield "</section>"
    yield '</div><div class="narrow-column">'
    for name, title in _ASIDE:
        yield f"{_section_start(name, title)}{_part(name, view)}{_change_log_level(host) if name == 'runtime' else ''}</section>"
    yield "</div></div></main>"
    links = " ".join(f'<a href="{path}">{path}</a>' for path in LINKS)
    yield f'<footer><nav aria-label="As JSON"><span>As JSON:</span> {links}</nav></footer><script>{SCRIPT}</script></body></html>'


def _head(asked: Mapping[str, str]) -> str:
    reload = f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>' if asked["refresh"] else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Outrider</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>{reload}</head><body><a class="skip" href="#main">Skip to the content</a>'
    )


def _banner(view: Mapping[str, Any], asked: Mapping[str, str]) -> Iterator[str]:
    yield f'<header>{_LOGO}<h1>Outrider <small>{text(view["version"])}</small></h1><p class="state" data-part="state">{PARTS["state"](view)}</p>'
    yield '<p class="controls"><span id="link"></span> <button type="button" id="pause" hidden aria-pressed="false">Pause</button></p>'
    kept = {name: value for name, value in asked.items() if value and name != "refresh"}
    again = attribute(f"/?{urlencode(kept)}" if kept else "/")
    on = attribute("/?" + urlencode({**kept, "refresh": "on"}))
    yield f'<noscript><p class="controls"><a href="{again}">Refresh</a> <a href="{on}">every {REFRESH_SECONDS} seconds</a></p></noscript>'
    yield f'<p class="hidden" id="news" role="status" aria-live="polite">{text(news(view))}</p></header><nav class="sections" aria-label="Sections">'
    yield "".join(f'<a href="#{name}">{title}</a>' for name, title in _SECTIONS + _ASIDE) + "</nav>"


def _section_start(name: str, title: str) -> str:
    return f'<section class="card" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>'


def _part(name: str, view: Mapping[str, Any]) -> str:
    return f'<div data-part="{name}">{PARTS[name](view)}</div>'


def _filter(asked: Mapping[str, str], wanted: str) -> str:
    kept = hidden({name: asked[name] for name in QUESTION})
    box = field("filter", "Name, host, path or upstream", wanted, type="search", autocomplete="off", id="filter", maxlength=200)
    return f'<form class="filter" action="/#routes" method="get" role="search" aria-label="Filter">{kept}{box}<button type="submit">Filter</button></form>'


def _explain(asked: Mapping[str, str], answer: str | None, listeners: Sequence[str]) -> str:
    form = "".join(
        (
            '<p class="lead">What would happen to a request, and why, without sending it.</p>',
            f'<form action="/#explain" method="get" aria-label="Explain a request">{hidden({"filter": asked["filter"]})}',
            field("method", "Method", asked["method"] or "GET", size=8, required=True),
            field("url", "URL", asked["url"], size=44, required=True, placeholder="http://orders.shop.svc/v1/orders"),
            field("header", "Header", asked["header"], size=20, placeholder="x-tenant: a"),
            choice("listener", "Listener", asked["listener"], (("", "guess"), *((name, name) for name in listeners))),
            '<button type="submit">Explain</button></form>',
        )
    )
    return form if answer is None else f'{form}<pre tabindex="0" role="region" aria-label="Explanation">{text(answer)}</pre>'


def _change_log_level(host: str) -> str:
    command = f"""curl -X PUT -d '{{"level": "debug"}}' http://{host}/log-level"""
    return f'<p class="lead">Change it ({", ".join(LOG_LEVELS)}): {code(command)}</p>'

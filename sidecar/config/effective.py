"""The document with everything filled in, for `GET /config`: defaults, implied routes, merged clocks; secrets masked."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET

from sidecar.config.compile import implied_routes
from sidecar.config.rules_ends import bind_of
from sidecar.model.document import Document, TimeoutsDoc
from sidecar.model.quantity import format_duration
from sidecar.model.snapshot import Timeouts

MASK: Final = "***"
_userinfo = re.compile(r"(?<=://)[^@/?#]*@")
_secret = re.compile(r"authorization|cookie|token|secret|password|passwd|credential|api[-_]?key|signature", re.IGNORECASE)

Json = dict[str, Any]
_TRACING: Final[Json] = {"sampler": "ParentBasedTraceIdRatio", "ratio": 0.01, "propagators": ["tracecontext", "baggage"]}
"""What holds when neither the document nor the environment speaks (product.md section 2)."""


def effective(document: Document) -> Json:
    """JSON-ready. Names, order and spelling are the document's."""
    out: Json = msgspec.to_builtins(document)
    for item, listener in zip(out["listeners"], document.listeners, strict=True):
        item["bind"] = bind_of(listener)
    clocks = {**_built_in_clocks(), **out["defaults"]["timeouts"]}
    out["defaults"]["timeouts"] = clocks
    routes = out["routes"] or msgspec.to_builtins(implied_routes(document))
    retry_of = [route.retry for route in document.routes] or [UNSET] * len(routes)
    out["routes"] = [
        _route(route, index, clocks, out["defaults"]["retry"] if retry is UNSET else route["retry"])
        for index, (route, retry) in enumerate(zip(routes, retry_of, strict=True))
    ]
    tracing = out["telemetry"]["tracing"]
    out["telemetry"]["tracing"] = {**tracing, **{name: value for name, value in _TRACING.items() if name not in tracing}}
    _mask(out)
    return out


def _built_in_clocks() -> Json:
    timeouts = Timeouts()
    names = zip(TimeoutsDoc.__struct_encode_fields__, TimeoutsDoc.__struct_fields__, strict=True)
    return {name: format_duration(getattr(timeouts, attribute)) for name, attribute in names}


def _route(route: Json, index: int, clocks: Json, retry: Json | None) -> Json:
    return {"name": f"routes[{index}]", **route, "timeouts": {**clocks, **route["timeouts"]}, "retry": retry}


def sounds_secret(name: str) -> bool:
    """Whether a header or parameter is likely to hold a credential: its value is not shown."""
    return _secret.search(name) is not None


def _mask(out: Json) -> None:
    for upstream in out["upstreams"]:
        if upstream["proxyURL"]:
            upstream["proxyURL"] = _userinfo.sub(f"{MASK}@", upstream["proxyURL"])
    for route in out["routes"]:
        for match in route["matches"]:
            _mask_values(match["headers"])
            _mask_values(match["queryParams"])
        for item in route["filters"]:
            for kind in ("requestHeaderModifier", "responseHeaderModifier"):
                if item[kind]:
                    _mask_values(item[kind]["set"])
                    _mask_values(item[kind]["add"])
    for case in out["tests"]:
        for headers in (case["request"]["headers"], case["expect"]["headers"]):
            headers.update({name: MASK for name, value in headers.items() if value and sounds_secret(name)})


def _mask_values(entries: list[Json]) -> None:
    """Hide the value of every entry whose name sounds like a credential."""
    for entry in entries:
        if sounds_secret(entry["name"]):
            entry["value"] = MASK

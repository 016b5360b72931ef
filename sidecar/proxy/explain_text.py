"""An explanation for people: aligned, the answer first, escaped where a value could move a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.observe.text import printable

Json = Mapping[str, Any]

_LABEL: Final = 11
"""Width of the left column."""
MAX_LOSERS: Final = 12
"""Rules shown that did not get the request."""


def render(explanation: Json) -> str:
    """The text of what `explain` returned; ends with a line feed."""
    lines: list[str] = []
    for label, rows in _sections(explanation):
        for index, row in enumerate(rows):
            lines.append(f"{label if index == 0 else '':<{_LABEL}}{row}".rstrip())
        if rows:
            lines.append("")
    return "\n".join(printable(line) for line in lines)


def _sections(explanation: Json) -> Iterator[tuple[str, list[str]]]:
    request, configuration = explanation["request"], explanation["configuration"]
    yield "Request", [f"{request['method']} {request['url']}", *(f"{name}: {value}" for name, value in request["headers"])]
    yield "Outcome", [_outcome(explanation["outcome"])]
    yield "Listener", _listener(explanation)
    yield "Route", _route(explanation)
    yield "Filters", _columns((one["type"], one["does"]) for one in explanation["filters"])
    yield "Sends", _sends(explanation["sends"])
    yield "Upstream", _upstreams(explanation["upstreams"])
    yield "Clocks", _columns((_clock_name(one), one["value"], one["origin"], one["means"]) for one in explanation["clocks"])
    yield "Retry", _retry(explanation["retry"])
    yield "Limits", _limits(explanation)
    yield "From", [f"{configuration['source']}, revision {configuration['revision'] or '-'}"]


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two blanks apart."""
    table = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)] if table else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _outcome(outcome: Json) -> str:
    words = {"forward": "goes to the upstream", "tunnel": "becomes a tunnel", "redirect": f"{outcome['status']} redirect"}
    if outcome["kind"] == "reply":
        return f"{outcome['status']} {outcome['reason']}: {outcome['detail']}"
    return f"{words[outcome['kind']]}: {outcome['detail']}"


def _listener(explanation: Json) -> list[str]:
    listener = explanation["listener"]
    where = listener["bind"] if str(listener["bind"]).startswith("unix:") else f"{listener['bind']}:{listener['port']}"
    others = [
        f"on {one['listener']} it would get {'no route' if one['route'] is None else 'route ' + one['route']}"
        for one in explanation["elsewhere"]
    ]
    return [f"{listener['name']} ({listener['mode']}, {where}): {listener['why']}", *others]


def _route(explanation: Json) -> list[str]:
    route, considered = explanation["route"], explanation["considered"]
    losers = [one for one in considered if not one["matched"]]
    rows = []
    if route is not None:
        winner = next((one["why"] for one in considered if one["matched"]), "matches")
        rows.append(f"{route['name']} ({route['origin']}): {winner}")
    elif explanation["consideredTotal"]:
        rows.append("none")
    rows += _columns(("not", _rule(one), one["why"]) for one in losers[:MAX_LOSERS])
    hidden = explanation["consideredTotal"] - (len(considered) - len(losers)) - min(len(losers), MAX_LOSERS)
    return [*rows, f"and {hidden} more that did not match"] if hidden > 0 else rows


def _rule(considered: Json) -> str:
    """A route's name, with the number of its match where it is not the first."""
    return f"{considered['route']}.matches[{considered['match']}]" if considered["match"] else str(considered["route"])


def _sends(sends: Json | None) -> list[str]:
    if sends is None:
        return []
    lines = [f"{sends['method']} {sends['target']} HTTP/1.1", *(f"{name}: {value}" for name, value in sends["headers"])]
    return [*lines, "(and Via, x-request-id, X-Forwarded-* as the listener's `forwarded` says)"]


def _upstreams(upstreams: Sequence[Json]) -> list[str]:
    rows = []
    for upstream in upstreams:
        share = "" if len(upstreams) == 1 else f", weight {upstream['weight']} ({upstream['share']:g} %)"
        rows.append(f"{upstream['name']} ({upstream['origin']}): {upstream['balancing']}{share}")
        if upstream["problem"]:
            rows.append(f"  ! {upstream['problem']}")
        rows += [f"  {row}" for row in _columns(_endpoint(one) for one in upstream["endpoints"])] or ["  no endpoints"]
    return rows


def _endpoint(endpoint: Json) -> tuple[str, str, str, str]:
    in_flight = "" if endpoint["inFlight"] is None else f"{endpoint['inFlight']} in flight"
    return endpoint["address"], endpoint["state"] or "configured", f"weight {endpoint['weight']}", in_flight


def _clock_name(clock: Json) -> str:
    return f"{clock['name']} ({clock['upstream']})" if "upstream" in clock else str(clock["name"])


def _retry(retry: Json | None) -> list[str]:
    if retry is None:
        return []
    return [f"{retry['note']} ({retry['origin']})", *_columns((one["name"], one["value"], one["origin"]) for one in retry["settings"])]


def _limits(explanation: Json) -> list[str]:
    rows = [(explanation["listener"]["name"], one["name"], one["value"], one["origin"]) for one in explanation["limits"]]
    for upstream in explanation["upstreams"]:
        rows += [(upstream["name"], one["name"], one["value"], one["origin"]) for one in upstream["limits"]]
    return _columns(rows)

"""What the admin surface shows, put together from what each worker says: pure functions of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sidecar.model.status import EndpointStatus, HealthStatus, UpstreamStatus
from sidecar.observe.recorder import FAILURES, MAX_FOUND, SLOWEST
from sidecar.policy.overload import Level
from sidecar.server.listeners import MAX_SHOWN

Json = dict[str, Any]

LAST_FAILURES: Final = 16
"""Of each worker, for an overview."""
KEPT_BLOCKS: Final = 8
_OVERVIEW: Final = ("listeners", "upstreams", "runtime", "failures")
NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "/": _OVERVIEW,
    "/page": _OVERVIEW,
    "/overview": _OVERVIEW,
    "/listeners": ("listeners",),
    "/upstreams": ("upstreams",),
    "/explain": ("upstreams",),
    "/connections": ("connections",),
    "/recent": ("recent",),
    "/why": ("why",),
    "/runtime": ("runtime",),
}
"""Which views a path of the admin surface shows; others need none."""
_LEVELS: Final = tuple(level.name.lower() for level in Level)
_CIRCUITS: Final = ("", "closed", "half-open", "open")
_STATES: Final = ("listening", "draining", "closed")


class Views(Struct):
    """What a worker answers: the views that were asked for."""

    listeners: list[Json] = []
    upstreams: list[UpstreamStatus] = []
    connections: dict[str, Json] = {}
    failures: list[Json] = []
    recent: dict[str, list[Json]] = {}
    why: list[Json] = []
    runtime: Json = {}


decode_views: Final = msgspec.msgpack.Decoder(Views).decode


def listeners(answers: Iterable[list[Json]]) -> list[Json]:
    """Every listener once; it listens while it does anywhere."""
    found: dict[tuple[Any, ...], Json] = {}
    for one in (listener for answer in answers for listener in answer):
        known = found.setdefault((one["name"], one["address"], one["port"]), one)
        best = min(known, one, key=lambda listener: _STATES.index(listener["state"]))
        found[one["name"], one["address"], one["port"]] = {**best, "problem": known["problem"] or one["problem"]}
    return list(found.values())


def upstreams(answers: Sequence[list[UpstreamStatus]]) -> list[UpstreamStatus]:
    """Every upstream once: what is in flight, open and left adds up."""
    found: dict[str, list[UpstreamStatus]] = {}
    for one in (upstream for answer in answers for upstream in answer):
        found.setdefault(one.name, []).append(one)
    return [_upstream(views) for views in found.values()]


def _upstream(views: Sequence[UpstreamStatus]) -> UpstreamStatus:
    learned = [one.learned_idle_timeout for one in views if one.learned_idle_timeout is not None]
    return replace(
        views[0],
        endpoints=_endpoints(views),
        connections_active=sum(one.connections_active for one in views),
        connections_idle=sum(one.connections_idle for one in views),
        connections_connecting=sum(one.connections_connecting for one in views),
        pending=sum(one.pending for one in views),
        learned_idle_timeout=min(learned, default=None),
        budget_available=sum(one.budget_available for one in views),
        problem=next((one.problem for one in views if one.problem), ""),
        copies=_sums(one.copies for one in views),
        health=_health([one.health for one in views if one.health is not None]),
    )


def _health(judged: Sequence[HealthStatus]) -> HealthStatus | None:
    """Each worker judges for itself: the circuit is shown as it is where it is most open."""
    if not judged:
        return None
    return HealthStatus(
        circuit=max((one.circuit for one in judged), key=_CIRCUITS.index),
        circuit_opened=sum(one.circuit_opened for one in judged),
        ejections=_sums(one.ejections for one in judged),
        checks=_sums(one.checks for one in judged),
    )


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return total


def _endpoints(views: Iterable[UpstreamStatus]) -> tuple[EndpointStatus, ...]:
    """An endpoint that one worker still sends to counts as it is there, in case another has let it go already."""
    found: dict[tuple[str, int, int], EndpointStatus] = {}
    for view in views:
        seen: dict[tuple[str, int], int] = {}
        for one in view.endpoints:
            again = seen[one.address, one.weight] = seen.get((one.address, one.weight), -1) + 1
            key = (one.address, one.weight, again)
            known = found.get(key)
            if known is not None:
                one = replace(  # noqa: PLW2901 - the sum takes its place
                    one if known.state == "draining" else known,
                    active=known.active + one.active,
                    requests=known.requests + one.requests,
                    failures=known.failures + one.failures,
                )
            found[key] = one
    return tuple(found.values())


def connections(answers: Iterable[dict[str, Json]], limits: Mapping[str, int]) -> dict[str, Json]:
    """By listener: counts add up, connections are listed as far as the list goes. `limits`: the document's `maxConnections`."""
    found: dict[str, Json] = {}
    for name, one in (entry for answer in answers for entry in answer.items()):
        total = found.setdefault(name, {"open": 0, "limit": limits.get(name, one["limit"]), "connections": []})
        for key, value in one.items():
            if key == "connections":
                total[key] = (total[key] + value)[:MAX_SHOWN]
            elif key != "limit":
                total[key] = total.get(key, 0) + value
    return found


def failures(answers: Iterable[list[Json]]) -> list[Json]:
    """The newest first."""
    return sorted((one for answer in answers for one in answer), key=_ended, reverse=True)


def recent(answers: Sequence[Mapping[str, list[Json]]]) -> dict[str, list[Json]]:
    """As many as one process would keep."""
    slowest = sorted((one for answer in answers for one in answer.get("slowest", [])), key=lambda one: -float(one["durationMs"]))
    return {"failures": failures(answer.get("failures", []) for answer in answers)[:FAILURES], "slowest": slowest[:SLOWEST]}


def why(answers: Iterable[list[Json]], request_id: str) -> list[Json]:
    """All that is known of a request, or the last failure of all."""
    return failures(answers)[: MAX_FOUND if request_id else 1]


def _ended(record: Json) -> float:
    return datetime.fromisoformat(record["time"]).timestamp() + float(record["durationMs"]) / 1000


def _overload(processes: Sequence[Json]) -> Json:
    """The highest level of any; requests that there is room for, and what was given up, in all."""
    worst = max(processes, key=lambda one: _LEVELS.index(one["level"]))
    rooms = [one["mostRequests"] for one in processes[1:]]  # the first has no requests
    actions = {action: sum(one["actions"][action] for one in processes) for action in processes[0]["actions"]}
    return {**worst, "mostRequests": None if None in rooms or not rooms else sum(rooms), "actions": actions}


def _share(limit: Json) -> float:
    return float(limit["share"])


def runtime(own: Json, answers: Mapping[int, Json]) -> Json:
    """The sidecar as a whole, as `GET /runtime` shows a single process, and each worker.

    Memory and CPU add up; of open files, limits and lateness that process counts which has the most.
    """
    everyone = [own, *answers.values()]
    files = max((one["fileDescriptors"] for one in everyone), key=lambda one: one["open"] / max(one["limit"], 1))
    lag = {name: max(one["loopLag"][name] for one in everyone) for name in ("p50", "p99", "max")}
    last = sorted((block for one in everyone for block in one["loopBlocked"]["last"]), key=lambda block: str(block["time"]), reverse=True)
    counts = own["loopBlocked"]["count"]
    limits = {limit["resource"]: limit for limit in sorted((limit for one in everyone for limit in one["limits"]), key=_share)}
    return {
        **own,
        "tasks": sum(one["tasks"] for one in everyone),
        "fileDescriptors": files,
        "memory": {**own["memory"], "rssBytes": sum(one["memory"]["rssBytes"] for one in everyone)},
        "cpu": {**own["cpu"], "seconds": round(sum(one["cpu"]["seconds"] for one in everyone), 3)},
        "loopLag": lag,
        "loopBlocked": {
            "count": {culprit: sum(one["loopBlocked"]["count"][culprit] for one in everyone) for culprit in counts},
            "last": last[:KEPT_BLOCKS],
        },
        "limits": list(limits.values()),
        "overload": _overload([one["overload"] for one in everyone]),
        "workers": [
            {
                "worker": number,
                **{name: one[name] for name in ("pid", "uptimeSeconds", "tasks", "fileDescriptors", "memory", "cpu", "loopLag")},
            }
            for number, one in sorted(answers.items())
        ],
    }

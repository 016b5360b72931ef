"""The parts of the page that change while it is looked at: the view of a moment (board.Board) as HTML.

Each has a name; the page's script replaces what has changed. Names of the configuration and values of peers are
escaped by html.py, nothing else is trusted either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from sidecar.admin.board import MAX_LISTENERS, MAX_PROBLEMS
from sidecar.admin.history import NOW_STEPS, STEP_SECONDS, Figures, Plot
from sidecar.admin.html import NONE, attribute, badge, code, more, pairs, rate, seconds, share, size, table, text
from sidecar.admin.plots import Curve, plot
from sidecar.model.quantity import format_duration

View = Mapping[str, Any]

MAX_MATCHES: Final = 3
_STATES: Final = {"healthy": "good", "draining": "warn", "configured": "good"}
_TILE: Final = {"points": 75, "width": 300, "height": 56}
_CELL: Final = {"points": 30, "width": 120, "height": 28}


def state(view: View) -> str:
    """Whether the sidecar is ready, in a word."""
    ready = bool(view["readiness"]["ready"])
    return f"{badge(view['state'], kind='good' if ready else 'bad')} <span>up {format_duration(float(int(_uptime(view))))}</span>"


def _uptime(view: View) -> float:
    return float(view["runtime"].get("uptimeSeconds", 0))


def tiles(view: View) -> str:
    """The whole sidecar in a few numbers."""
    now: Figures = view["all"]["figures"]
    past: Plot | None = view["all"]["plot"]
    pictures = [plot(curves, steps=view["steps"], **_TILE) for curves in _curves(past)] if past is not None else ["", "", ""]
    memory, lag = (view["runtime"].get(name, {}) for name in ("memory", "loopLag"))
    latency = f'{seconds(now.p50)} <small>p50</small> <span class="second">{seconds(now.p95)} <small>p95</small></span>'
    gauges = (
        ("In flight", f"{view['inFlight']:,}"),
        ("Waiting", f"{view['pending']:,}"),
        ("Memory", size(memory.get("rssBytes"))),
        ("Loop lag", f"{seconds(lag.get('p99', 0.0))} <small>p99</small>"),
    )
    return "".join(
        (
            _tile("Requests", f"{rate(now.rate)}<small>/s</small>", pictures[0], f"{now.requests:,} since the start"),
            _tile("Errors (5xx)", share(now.errors, now.rate), pictures[1], f"{rate(now.errors)} a second"),
            _tile("Latency", latency, pictures[2], "of whole requests"),
            f'<div class="tile"><h3>Now</h3>{pairs(gauges)}</div>',
        )
    )


def _curves(past: Plot) -> Iterator[list[Curve]]:
    """Of requests, errors and latency."""
    yield _requests(past)
    portions = [part / whole if whole else 0.0 for part, whole in zip(past.errors, past.rate, strict=True)]
    yield [Curve("failed", portions, filled=True)] if any(portions) else []
    yield [Curve("high", past.p95), Curve("middle", past.p50, filled=True)]


def _requests(past: Plot) -> list[Curve]:
    """A line at zero would look like an error, so there is none without errors."""
    failed = [Curve("failed", past.errors, filled=True)] if any(past.errors) else []
    return [Curve("rate", past.rate, filled=True), *failed]


def _tile(name: str, value: str, picture: str, note: str) -> str:
    return f'<div class="tile"><h3>{name}</h3><p class="value">{value}</p>{picture}<p class="note">{note}</p></div>'


def span(view: View) -> str:
    """What the numbers are about."""
    if not view["steps"]:
        return "Averages since the start; numbers of the last seconds come with the next look."
    minutes = round(view["steps"] * STEP_SECONDS / 60)
    return f"Numbers: the last {STEP_SECONDS * NOW_STEPS:.0f} seconds. Plots: the last {f'{minutes} minutes' if minutes > 1 else 'minute'}."


def readiness(view: View) -> str:
    """The conditions of `/readyz`."""
    checks = view["readiness"]["checks"]
    rows = (
        f"<li>{badge(one['name'], kind='good' if one['ok'] else 'bad')} {text(one['detail']) if one['detail'] else ''}</li>"
        for one in checks
    )
    return f'<ul class="checks">{"".join(rows)}</ul>'


def configuration(view: View) -> str:
    """What serves, where it comes from, and what is wrong with the newest document."""
    config, problems = view["config"], view["problems"]
    parts = []
    if config["revision"] is None:
        parts.append("<p>No valid document has come yet.</p>")
    else:
        entries = (("Revision", code(config["revision"])), ("Source", text(config["source"])), ("Active since", _time(config["loadedAt"])))
        parts.append(pairs(entries if config["hash"] == config["revision"] else (*entries, ("Hash", code(config["hash"])))))
    parts += [
        f'<p class="bad">✗ {text(source["name"])}: {text(source["problem"])}</p>' for source in view["sources"] if not source["connected"]
    ]
    if told := problems["problems"]:
        where = f"{text(problems['source'])}, {text(problems['revision'])}"
        parts.append(f'<h3 class="bad">✗ The newest document ({where}) was refused</h3>')
        rows = [(f"{one['line']}", f"{code(one['path'] or 'document')}<br>{text(one['message'])}") for one in told[:MAX_PROBLEMS]]
        parts.append(table("Problems of the newest document", ("#Line", "~What is wrong"), rows))
        parts.append(more(len(told) - MAX_PROBLEMS, "/config/problems"))
    if warnings := view["warnings"]:
        shown = "".join(f"<li>{text(warning)}</li>" for warning in warnings[:MAX_PROBLEMS])
        parts.append(f"<h3>Warnings</h3><ul>{shown}</ul>{more(len(warnings) - MAX_PROBLEMS, '/overview')}")
    return "".join(parts)


def _time(value: object) -> str:
    """A moment in UTC, to the second."""
    if not value:
        return NONE
    return f'<time datetime="{attribute(value)}">{text(str(value)[:19].replace("T", " "))}</time>'


def routes(view: View) -> str:
    """The routes with their traffic."""
    columns = ("Route", "~Matches", "Upstreams", "#Requests/s", "Of late", "#Errors", "#p50", "#p95", "#Total")
    shown = table("Routes with their traffic", columns, map(_route, view["routes"]), kind="routes")
    found, total, named = view["routesFound"], view["routesTotal"], sum(row["name"] is not None for row in view["routes"])
    words = f"{found:,} of {total:,} routes match" if view["filter"] else f"{total:,} routes" if total != 1 else "1 route"
    if named < found:
        words += f"; the busiest {named} are shown. Filter to see others, or look at <a href='/config'>/config</a>"
    return f'{shown}<p class="more">{words}.</p>'


def _route(row: View) -> tuple[str, ...]:
    if row["name"] is None:
        return ("<em>no route</em>", "requests that no route got", NONE, *_traffic(row))
    hosts = "" if row["hostnames"] == "every" else f'<span class="quiet">{text(row["hostnames"])}</span><br>'
    rest = len(row["matches"]) - MAX_MATCHES
    rules = "<br>".join(text(one) for one in row["matches"][:MAX_MATCHES]) + (f"<br>and {rest} more" if rest > 0 else "")
    where = "" if row["listener"] == "every" else f'<br><span class="quiet">{text(row["listener"])}</span>'
    return (f"<b>{text(row['name'])}</b>{where}", hosts + rules, text(row["upstreams"]), *_traffic(row))


def _traffic(row: View) -> tuple[str, ...]:
    """Rate, plot, errors, latencies, total."""
    now: Figures = row["figures"]
    past: Plot | None = row["plot"]
    picture = ""
    if past is not None and any(past.rate):
        picture = plot(_requests(past), steps=row["steps"], **_CELL)
    failed = share(now.errors, now.rate)
    errors = f'<span class="bad">{failed}</span>' if now.errors else failed
    return (rate(now.rate), picture, errors, seconds(now.p50), seconds(now.p95), f"{now.requests:,}")


def upstreams(view: View) -> str:
    """The upstreams with their endpoints."""
    if not view["upstreams"]:
        return '<p class="empty">None.</p>'
    hidden = view["upstreamsTotal"] - len(view["upstreams"]) if not view["filter"] else 0
    return "".join(map(_upstream, view["upstreams"])) + more(hidden, "/upstreams")


def _upstream(one: View) -> str:
    pool, budget = one["pool"], one["retryBudget"]["available"]
    wanted, picture, errors, middle, high, _ = _traffic(one)
    facts = [
        ("Requests/s", wanted),
        ("Errors", errors),
        ("p50", middle),
        ("p95", high),
        ("In flight", f"{one['inFlight']:,}"),
        ("Connections", f"{pool['active']:,} active, {pool['idle']:,} idle, {pool['connecting']:,} connecting"),
        ("Waiting", f"{pool['pending']:,}"),
        ("Retries left", f"{budget:,.0f}"),
    ]
    if one["breaker"] is not None:
        circuit = one["breaker"]["state"]
        facts.append(("Breaker", badge(circuit, kind="good" if circuit == "closed" else "bad")))
    states = " ".join(badge(f"{count} {name}", kind=_STATES.get(name, "bad")) for name, count in one["states"].items())
    problem = f'<p class="bad">✗ {text(one["problem"])}</p>' if one["problem"] else ""
    rows = [
        (code(endpoint["address"]), badge(endpoint["state"], kind=_STATES.get(endpoint["state"], "bad")), *_counts(endpoint))
        for endpoint in one["endpoints"]
    ]
    columns = ("Endpoint", "Health", "#Weight", "#In flight", "#Requests", "#Failures")
    rest = more(one["endpointsTotal"] - len(rows), "/upstreams")
    head = f"<h3>{text(one['name'])} <small>{text(one['source'])}</small></h3> <span>{states}</span>"
    endpoints = table(f"Endpoints of {one['name']}", columns, rows)
    return f'<div class="upstream"><div class="head">{head}{picture}</div>{problem}{pairs(facts)}{endpoints}{rest}</div>'


def _counts(endpoint: View) -> Iterator[str]:
    return (f"{endpoint[name]:,}" for name in ("weight", "inFlight", "requests", "failures"))


def failures(view: View) -> str:
    """What failed last, and how to ask why."""
    told = view["failures"]
    if not told:
        return '<p class="empty">None since the start.</p>'
    columns = ("Time (UTC)", "~Request", "Answer", "~Reason", "~Ask why")
    shown = table("Requests that failed or were retried, the newest first", columns, map(_failure, told), kind="failures")
    return f'{shown}<p class="more">Those before, and the slowest: <a href="/recent">/recent</a></p>'


def _failure(one: View) -> tuple[str, ...]:
    status, tries = int(one.get("status") or 0), len(one.get("attempts", ()))
    names = " → ".join(text(one[name]) for name in ("listener", "route", "upstream") if one.get(name))
    request = f'{text(one.get("method"))} {text(one.get("authority") or "")}{text(one.get("path"))}<br><span class="quiet">{names}</span>'
    moment = str(one.get("time") or "")
    when = f'<time datetime="{attribute(moment)}">{text(moment[11:19])}</time>'
    took = seconds(float(one.get("durationMs") or 0) / 1000) + (f", {tries} tries" if tries > 1 else "")
    asked = {name: one.get(name) or "" for name in ("method", "listener")}
    question = urlencode({**asked, "url": f"http://{one.get('authority') or ''}{one.get('path') or ''}"})
    command = f'<code class="copy">outrider why {text(one.get("requestId"))}</code> <a href="/?{attribute(question)}#explain">explain</a>'
    return (when, request, f'<b>{status or NONE}</b><br><span class="quiet">{took}</span>', _reason(one, status), command)


def _reason(one: View, status: int) -> str:
    clock, detail = one.get("clock"), one.get("detail")
    if reason := one.get("reason"):
        words = badge(reason, kind="bad")
    else:
        words = badge(f"status {status}", kind="bad") if status >= 500 else badge("retried", kind="warn")
    words += f' <span class="clock">clock {text(clock)}</span>' if clock else ""
    return words + (f'<br><span class="quiet">{text(detail)}</span>' if detail else "")


def listeners(view: View) -> str:
    """The sockets that are open."""
    told = view["listeners"]
    rows = [
        (
            f'<b>{text(one["name"])}</b><br><span class="quiet">{text(one["mode"])}</span>',
            code(one["address"] if str(one["address"]).startswith("unix:") else f"{one['address']}:{one['port']}"),
            badge(one["state"], kind="good" if one["state"] == "listening" else "warn") + _secured(one),
        )
        for one in told[:MAX_LISTENERS]
    ]
    return table("Listeners", ("Listener", "Address", "State"), rows) + more(len(told) - MAX_LISTENERS, "/listeners")


def _secured(listener: dict[str, Any]) -> str:
    """TLS, and what is wrong with its certificates."""
    word = f" {badge(listener['tls'], kind='good' if not listener['problem'] else 'warn')}" if listener["tls"] else ""
    return word + (f'<br><span class="quiet">{text(listener["problem"])}</span>' if listener["problem"] else "")


def runtime(view: View) -> str:
    """The process, and how near it is to its limits."""
    now = view["runtime"]
    memory, files, cpu, lag = (now.get(name, {}) for name in ("memory", "fileDescriptors", "cpu", "loopLag"))
    entries = [
        ("Memory", _gauge("memory", memory.get("rssBytes"), memory.get("limitBytes"), size)),
        ("Open files", _gauge("open files", files.get("open"), files.get("limit"), lambda value: f"{value:,}")),
        (
            "CPU",
            f"{cpu.get('seconds', 0.0):,.1f} s" + (f", {throttled:,.1f} s throttled" if (throttled := cpu.get("throttledSeconds")) else ""),
        ),
        (
            "Loop lag",
            f"{seconds(lag.get('p50', 0.0))} p50, {seconds(lag.get('p99', 0.0))} p99, {seconds(lag.get('max', 0.0))} at most",
        ),
        ("Tasks", f"{now.get('tasks', 0):,}"),
        ("Process", f"{now.get('pid', '')}"),
        ("Log level", f"{code(view['logLevel'])}"),
    ]
    return pairs(entries)


def _gauge(name: str, value: int | None, limit: int | None, show: Callable[[Any], str]) -> str:
    if value is None:
        return NONE
    if not limit:
        return f"{show(value)} <span class='quiet'>no limit</span>"
    words = f"{show(value)} <span class='quiet'>of {show(limit)}</span>"
    return f'{words}<meter min="0" max="{limit}" low="{limit * 0.7:.0f}" high="{limit * 0.9:.0f}" optimum="0" value="{value}" aria-label="{name}"></meter>'


def news(view: View) -> str:
    """What a screen reader says when it changes: not the numbers, they change all the time."""
    problems = len(view["problems"]["problems"])
    reasons = [f"{one['name']}: {one['detail']}" for one in view["readiness"]["checks"] if not one["ok"]]
    words = [f"The sidecar is {view['state']}", *reasons, f"configuration {view['config']['revision'] or 'none'}"]
    return ", ".join([*words, *([f"the newest document was refused, problems: {problems}"] if problems else [])]) + "."


PARTS: Final[dict[str, Callable[[View], str]]] = {
    "state": state,
    "tiles": tiles,
    "span": span,
    "routes": routes,
    "upstreams": upstreams,
    "failures": failures,
    "readiness": readiness,
    "configuration": configuration,
    "listeners": listeners,
    "runtime": runtime,
}
"""By name; the page has each once."""

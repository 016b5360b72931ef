"""What the flight recorder cites of the configuration: the settings behind an end, as they were then."""

from __future__ import annotations

import gc
import weakref

import pytest
from msgspec.structs import replace
from observe_samples import attempt, exchange, failed_exchange

from sidecar.config.load import Loaded, load
from sidecar.model.exchange import Exchange
from sidecar.model.head import RequestHead
from sidecar.model.reason import Clock, Reason
from sidecar.observe import cited
from sidecar.observe.cited import Cited, Source
from sidecar.observe.recorder import Recorder

DOCUMENT = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - name: inbound
    port: 15001
    maxRequestBody: 1Mi
upstreams:
  - name: orders
    targets: [{url: "http://127.0.0.1:8000"}]
    connectTimeout: 1s
    connectionPool:
      maxPendingRequests: 5
  - {name: other, targets: [{url: "http://127.0.0.1:8001"}]}
routes:
  - name: other
    matches: [{path: {value: /other}}]
    backendRefs: [{name: other}]
  - name: orders-read
    backendRefs: [{name: orders}]
    timeouts:
      responseHeader: 2s
    retry:
      attempts: 3
defaults:
  timeouts:
    queue: 3s
"""


def loaded(text: str = DOCUMENT, revision: str = "r1") -> Loaded:
    made = load(text.encode(), revision=revision)
    assert isinstance(made, Loaded), made
    return made


def source(made: Loaded) -> Source:
    return Source("file", made.snapshot, lambda path: made.origins.of(path))  # noqa: PLW0108 - a function can be watched


def ended(made: Loaded, *attempts, reason=None, clock=None, route="orders-read", skipped="") -> Exchange:
    """An exchange of this configuration."""
    snapshot = made.snapshot
    one = exchange(*attempts, status=504, reason=reason, clock=clock, listener=snapshot.listeners[0])
    one.route = next((each for each in snapshot.routes if each.name == route), None)
    one.upstream = snapshot.upstreams["orders"] if one.route is not None else None
    one.revision = snapshot.revision
    one.retries_skipped = skipped
    return one


def told(made: Loaded, *attempts, **more) -> dict[str, tuple[str, str]]:
    return {path: (value, origin) for path, value, origin in Cited(source(made)).by(ended(made, *attempts, **more))}


def test_the_clock_that_fired_is_cited_with_its_value_and_line_beside_route_and_upstream():
    assert told(loaded(), reason=Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER) == {
        "routes[1]": ("orders-read", "line 18"),
        "upstreams[0]": ("orders", "line 8"),
        "routes[1].timeouts.responseHeader": ("2s", "line 21"),
    }


@pytest.mark.parametrize(
    ("clock", "path", "value", "origin"),
    [
        (Clock.QUEUE, "routes[1].timeouts.queue", "3s", "defaults (line 26)"),
        (Clock.REQUEST, "routes[1].timeouts.request", "off", "built-in"),
        (Clock.BACKEND_REQUEST, "routes[1].timeouts.backendRequest", "off", "built-in"),
        (Clock.STREAM_IDLE, "routes[1].timeouts.streamIdle", "5m", "built-in"),
        (Clock.TUNNEL_IDLE, "routes[1].timeouts.tunnelIdle", "1h", "built-in"),
        (Clock.UPGRADE_HANDSHAKE, "routes[1].timeouts.upgradeHandshake", "10s", "built-in"),
        (Clock.CONNECT, "upstreams[0].connectTimeout", "1s", "line 10"),
        (Clock.HEADER, "listeners[0].headerTimeout", "15s", "built-in"),
        (Clock.BODY_IDLE, "listeners[0].bodyIdleTimeout", "1m", "built-in"),
        (Clock.RESPONSE_HEADER, "routes[1].timeouts.responseHeader", "2s", "line 21"),
    ],
)
def test_every_clock_has_its_place(clock, path, value, origin):
    assert told(loaded(), clock=clock, reason=Reason.REQUEST_TIMEOUT)[path] == (value, origin)


def test_no_clock_is_without_a_place():
    rows = next(mark for mark in test_every_clock_has_its_place.pytestmark if mark.name == "parametrize").args[1]
    assert {row[0] for row in rows} == set(Clock)


@pytest.mark.parametrize(
    ("reason", "path", "value", "origin"),
    [
        (Reason.REQUEST_TOO_LARGE, "listeners[0].maxRequestBody", "1048576 bytes", "line 6"),
        (Reason.HEADER_SECTION_TOO_LARGE, "listeners[0].maxHeaderBytes", "32768 bytes", "built-in"),
        (Reason.URI_TOO_LONG, "listeners[0].maxTargetBytes", "8192 bytes", "built-in"),
        (Reason.HTTP_REQUEST_DENIED, "listeners[0].allow", "0 entries", "built-in"),
        (Reason.OVERLOADED, "upstreams[0].connectionPool.maxPendingRequests", "5", "line 12"),
        (Reason.CONNECTION_LIMIT_REACHED, "upstreams[0].connectionPool.maxConnections", "1024", "built-in"),
        (Reason.DRAINING, "lifecycle.drainTimeout", "20s", "built-in"),
    ],
)
def test_the_limit_behind_a_reason_is_cited(reason, path, value, origin):
    assert told(loaded(), reason=reason)[path] == (value, origin)


@pytest.mark.parametrize(
    ("skipped", "path", "value"),
    [
        ("budget", "upstreams[0].retryBudget.percent", "20"),
        ("body", "routes[1].retry.maxBufferedBody", "65536 bytes"),
        ("method", "routes[1].retry.methods", "Idempotent"),
        ("time", "routes[1].timeouts.request", "off"),
        ("started", "routes[1].retry", "3 retries"),
    ],
)
def test_why_a_retry_was_not_made_is_cited(skipped, path, value):
    assert told(loaded(), attempt(), reason=Reason.CONNECTION_REFUSED, skipped=skipped)[path][0] == value


def test_without_a_route_the_default_clocks_were_in_force():
    assert told(loaded(), clock=Clock.QUEUE, reason=Reason.CONNECTION_LIMIT_REACHED, route="")["defaults.timeouts.queue"] == (
        "3s",
        "line 26",
    )


def test_a_request_of_which_no_head_came_cites_the_listener():
    made = loaded()
    one = Exchange(made.snapshot.listeners[0], RequestHead(b"", b"", 1, []), "10.0.0.1", 1.0)
    one.reason, one.clock = Reason.REQUEST_HEADER_TIMEOUT, Clock.HEADER
    assert Cited(source(made)).by(one) == (("listeners[0].headerTimeout", "15s", "built-in"),)


def test_crowds_of_failures_ask_for_lines_once_and_what_is_remembered_is_bounded(monkeypatch):
    asked = []
    made = loaded()
    citing = Cited(Source("file", made.snapshot, lambda path: asked.append(path) or "line 1"))
    one = ended(made, reason=Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER)
    assert citing.by(one) is citing.by(one)
    assert len(asked) == 3
    monkeypatch.setattr(cited, "REMEMBERED", 2)
    for reason in Reason:
        citing.by(ended(made, reason=reason))
        assert len(citing._known) <= 2


# -- over reloads


class World:
    """What serves now, as the composition root shows it to the recorder."""

    def __init__(self) -> None:
        self.active: Source | None = None
        self.recorder = Recorder(active=lambda: self.active)

    def reload(self, made: Loaded) -> None:
        """In the order of ConfigStore: subscribers first, then the store's own word."""
        self.recorder.config_applied(made.snapshot)
        self.active = source(made)

    def fails(self, made: Loaded) -> dict:
        self.recorder.exchange_finished(ended(made, reason=Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER))
        (shown,) = self.recorder.last()
        return shown


def values(shown) -> list[tuple[str, str]]:
    return [(one["value"], one["origin"]) for one in shown["settings"] if "timeouts" in one["path"]]


def test_a_failure_keeps_what_the_configuration_said_when_it_happened():
    world, before = World(), loaded()
    world.reload(before)
    world.fails(before)
    world.reload(loaded("# moved\n" + DOCUMENT.replace("responseHeader: 2s", "responseHeader: 9s"), "r2"))
    (shown,) = world.recorder.last()
    assert (shown["source"], shown["revision"], values(shown)) == ("file", "r1", [("2s", "line 21")])


def test_a_request_that_ends_after_the_reload_cites_the_configuration_that_it_ran_under():
    world, before, after = World(), loaded(), loaded("# moved\n" + DOCUMENT.replace("responseHeader: 2s", "responseHeader: 9s"), "r2")
    world.reload(before)
    world.reload(after)
    assert values(world.fails(before)) == [("2s", "line 21")]
    assert values(world.fails(after)) == [("9s", "line 22")]
    assert values(world.fails(before)) == [("2s", "line 21")]


def test_a_configuration_of_long_ago_is_named_and_not_kept_in_memory():
    world, first = World(), loaded()
    world.reload(first)
    world.fails(first)
    old = ended(first, reason=Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER)
    kept = weakref.ref(world.active.origin)
    for number in range(2, 5):
        world.reload(loaded("#\n" * number + DOCUMENT, f"r{number}"))
    world.recorder.exchange_finished(old)
    (shown,) = world.recorder.last()
    assert (shown["source"], shown["revision"], shown["settings"]) == (None, "r1", [])
    del first, old
    gc.collect()
    assert kept() is None


def test_without_a_configuration_nothing_is_cited():
    made = Recorder()
    made.exchange_finished(failed_exchange())
    (shown,) = made.last()
    assert (shown["source"], shown["settings"]) == (None, [])


def test_a_refused_reload_changes_nothing():
    """The store asks its subscribers to go back to what is active: the same snapshot again."""
    world, made = World(), loaded()
    world.reload(made)
    world.recorder.config_applied(replace(made.snapshot, revision="refused"))
    world.recorder.config_applied(made.snapshot)
    assert values(world.fails(made)) == [("2s", "line 21")]

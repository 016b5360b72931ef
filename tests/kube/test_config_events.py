"""EventWriter: which outcomes become Events, what they look like, and what happens when they cannot be written."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.virtual_time import run_in_virtual_time

from sidecar.config.problem import Problem
from sidecar.config.source import Offer, Unavailable
from sidecar.config.store import Outcome, Result
from sidecar.kube import event_post, events
from sidecar.kube.api import ApiError, BadAnswer, Unreachable
from sidecar.kube.configmap import Reference
from sidecar.kube.events import EventWriter, Report, event_of, rejection_note
from sidecar.kube.hub import Access
from sidecar.kube.objects import EVENTS
from sidecar.model.identity import Identity

REFERENCE = Reference("shop", "orders", "sidecar.yaml")
IDENTITY = Identity(pod="orders-7f9c", namespace="shop", uid="p-1")
PROBLEMS = (
    Problem("routes[2].timeouts.request", 14, 18, '"5" is not a duration (write 5s)'),
    Problem("", 20, 1, "b"),
    Problem("", 21, 1, "c"),
)
REJECTED, APPLIED, UNCHANGED = Outcome(Result.REJECTED, PROBLEMS), Outcome(Result.APPLIED), Outcome(Result.UNCHANGED)


class ApiStub:
    """Keeps what was created; `answers` are raised in turn, None accepts, the last one is repeated."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers) or [None]
        self.created: list[Any] = []
        self.times: list[float] = []

    async def create(self, resource: Any, namespace: str, body: Any) -> Any:
        assert (resource, namespace) == (EVENTS, "shop")
        self.times.append(asyncio.get_running_loop().time())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer
        self.created.append(body)
        return body


def offer(data: str, version: str = "7", uid: str = "u1") -> Offer:
    return Offer("configmap", version, data.encode(), "", uid)


def play(api: Any, script: Callable[[EventWriter], Awaitable[None]]) -> EventWriter:
    """Run `script` beside a writer, in virtual time, and give the writer a day to finish."""

    async def access() -> Access:
        return Access(api, "default")

    async def main() -> EventWriter:
        writer = EventWriter(cast("Any", SimpleNamespace(access=access)), cast("Any", SimpleNamespace(reference=REFERENCE)), IDENTITY)
        task = asyncio.ensure_future(writer.run())
        await script(writer)
        await asyncio.sleep(86_400)
        task.cancel()
        await asyncio.wait((task,))
        return writer

    return run_in_virtual_time(main())


def hearing(api: Any, *heard: tuple[Any, Outcome | None]) -> EventWriter:
    """A writer that hears these, with a minute between."""

    async def script(writer: EventWriter) -> None:
        for news, outcome in heard:
            writer.hear(news, outcome)
            await asyncio.sleep(60)

    return play(api, script)


def reasons(*heard: tuple[Any, Outcome | None]) -> list[str]:
    api = ApiStub()
    hearing(api, *heard)
    return [body["reason"] for body in api.created]


def test_a_rejected_document_is_a_warning_and_the_good_one_after_it_is_not() -> None:
    api = ApiStub()
    hearing(api, (offer("bad", "7"), REJECTED), (offer("good", "8"), APPLIED))
    assert [(body["reason"], body["type"]) for body in api.created] == [("ConfigRejected", "Warning"), ("ConfigApplied", "Normal")]
    assert [body["regarding"]["resourceVersion"] for body in api.created] == ["7", "8"]


def test_going_back_to_the_active_document_is_told_too() -> None:
    assert reasons((offer("bad"), REJECTED), (offer("good"), UNCHANGED)) == ["ConfigRejected", "ConfigApplied"]


def test_good_documents_are_not_worth_an_event() -> None:
    assert reasons((offer("a"), APPLIED), (offer("b"), APPLIED), (offer("b"), UNCHANGED)) == []


def test_the_same_mistake_again_is_told_once_and_another_one_again() -> None:
    heard = [(offer("bad", "7"), REJECTED), (offer("bad", "8"), REJECTED), (offer("worse", "9"), REJECTED)]
    assert reasons(*heard) == ["ConfigRejected"] * 2


def test_the_same_mistake_after_a_good_document_is_told_again() -> None:
    assert reasons((offer("bad"), REJECTED), (offer("good"), APPLIED), (offer("bad"), REJECTED)).count("ConfigRejected") == 2


def test_files_and_trouble_are_no_business_of_events() -> None:
    assert reasons((Offer("file", "1", b"bad"), REJECTED), (Unavailable("configmap", "away"), None), (offer("x"), None)) == []


def test_the_event_regards_the_configmap_and_names_the_pod_and_has_all_that_the_api_demands() -> None:
    report = Report("ConfigRejected", "note", "7", "u1", 0.0)
    body = event_of(report, REFERENCE, IDENTITY, datetime(2026, 11, 22, 23, 30, 43, 120, tzinfo=UTC))
    assert body["eventTime"] == "2026-11-22T23:30:43.000120Z"
    assert (body["reportingController"], body["reportingInstance"], body["action"]) == ("outrider.dev/sidecar", "orders-7f9c", "LoadConfig")
    assert body["regarding"] == {
        "apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "orders", "uid": "u1", "resourceVersion": "7",
    }  # fmt: skip
    assert body["related"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "orders-7f9c", "uid": "p-1"}
    assert body["metadata"]["namespace"] == "shop"


def test_every_pod_gives_the_event_of_one_mistake_the_same_name_and_every_mistake_has_its_own() -> None:
    def name(pod: str = "a", **change: Any) -> str:
        report = Report("ConfigRejected", pod, "7", "u1", 0.0)._replace(**change)
        return cast("str", event_of(report, REFERENCE, Identity(pod=pod), datetime.now(UTC))["metadata"]["name"])

    assert name("a") == name("b")
    assert len({name(), name(revision="8"), name(uid="u2"), name(reason="ConfigApplied")}) == 4
    assert re.fullmatch(r"orders\.[0-9a-f]{16}", name())


def test_names_stay_within_what_the_api_allows() -> None:
    body = event_of(
        Report("ConfigRejected", "", "7", "u1", 0.0),
        Reference("shop", "a" * 199 + "." * 2 + "b" * 50, "k"),
        Identity(pod="p" * 253),
        datetime.now(UTC),
    )
    assert re.fullmatch(r"a{199}\.[0-9a-f]{16}", body["metadata"]["name"])
    assert len(body["reportingInstance"]) == 128


def test_outside_of_a_pod_there_is_no_related_object_and_still_an_instance() -> None:
    body = event_of(Report("ConfigRejected", "", "7", "u1", 0.0), REFERENCE, Identity(), datetime.now(UTC))
    assert "related" not in body
    assert body["reportingInstance"]


def test_the_note_has_the_place_the_field_and_how_many_more() -> None:
    assert rejection_note("sidecar.yaml", PROBLEMS) == (
        'sidecar.yaml: line 14, column 18: routes[2].timeouts.request: "5" is not a duration (write 5s) (and 2 more problems); '
        "this version is not in force"
    )
    assert "(and 1 more problem);" in rejection_note("k", PROBLEMS[:2])
    assert rejection_note("k", PROBLEMS[1:2]) == "k: line 20, column 1: b; this version is not in force"


def test_a_note_is_never_longer_than_the_api_allows() -> None:
    note = rejection_note("k" * 253, (Problem("p", 1, 1, "é" * 2000), *PROBLEMS))
    assert len(note.encode()) <= 1024
    assert note.endswith("... (and 3 more problems); this version is not in force")


@pytest.mark.parametrize("url", ["http://user:hunter2@proxy", "http://user:hunter2...", "http://hunter2@proxy:3128/x"])
def test_a_note_has_no_password(url: str) -> None:
    note = rejection_note("k", (Problem("upstreams[0].proxyURL", 3, 1, f'"{url}" is not a URL'),))
    assert "hunter2" not in note
    assert "://***@" in note


def test_addresses_stay_in_a_note() -> None:
    assert '"http://app:8000/x" must' in rejection_note("k", (Problem("", 1, 1, '"http://app:8000/x" must be a host and a port only'),))


def test_what_another_pod_has_said_is_not_repeated() -> None:
    api = ApiStub(ApiError("exists", status=409, reason="AlreadyExists"))
    writer = hearing(api, (offer("bad"), REJECTED))
    assert (len(api.times), dict(writer.written)) == (1, {"exists": 1})


def test_without_the_right_it_is_said_once_with_the_rule_that_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    api = ApiStub(ApiError("events.k8s.io is forbidden", status=403, reason="Forbidden"))
    writer = hearing(api, (offer("bad"), REJECTED), (offer("good"), APPLIED), (offer("bad"), REJECTED))
    assert (len(api.times), dict(writer.written)) == (3, {"refused": 3})
    (record,) = caplog.records
    assert 'the rule {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]} in namespace shop' in record.getMessage()
    assert cast("Any", record).event == "event_refused"


def test_an_api_server_that_is_away_or_busy_is_asked_again_ever_more_slowly_and_not_for_ever() -> None:
    api = ApiStub(Unreachable("refused"), ApiError("busy", status=500), None)
    assert dict(hearing(api, (offer("bad"), REJECTED)).written) == {"written": 1}
    gone = ApiStub(Unreachable("refused"))
    assert dict(hearing(gone, (offer("bad"), REJECTED)).written) == {"dropped": 1}
    waits = [after - before for before, after in zip(gone.times, gone.times[1:], strict=False)]
    assert len(gone.times) == event_post.TRIES
    assert waits[-1] > 10 * waits[0]
    assert max(waits) <= event_post.RETRY_SECONDS[1] * 1.5


def test_retry_after_is_obeyed_within_reason() -> None:
    api = ApiStub(ApiError("busy", status=429, retry_after=7.0), ApiError("busy", status=429, retry_after=86_400.0), None)
    hearing(api, (offer("bad"), REJECTED))
    assert 7.0 <= api.times[1] - api.times[0] <= 11.0
    assert api.times[2] - api.times[1] <= 90.0


def test_an_answer_that_makes_no_sense_is_not_asked_for_again() -> None:
    api = ApiStub(BadAnswer("not JSON"))
    assert dict(hearing(api, (offer("bad"), REJECTED)).written) == {"dropped": 1}
    assert len(api.times) == 1


def test_a_request_that_hangs_is_given_up() -> None:
    class Hanging(ApiStub):
        async def create(self, resource: Any, namespace: str, body: Any) -> Any:
            self.times.append(0.0)
            await asyncio.Event().wait()

    api = Hanging()
    assert dict(hearing(api, (offer("bad"), REJECTED)).written) == {"dropped": 1}
    assert len(api.times) == event_post.TRIES


def test_an_author_who_makes_many_mistakes_gets_no_flood_of_events() -> None:
    api = ApiStub()

    async def script(writer: EventWriter) -> None:
        for number in range(1000):
            writer.hear(offer(f"bad {number}", str(number)), REJECTED)
            await asyncio.sleep(3.0)

    writer = play(api, script)
    assert event_post.BURST <= len(api.created) <= event_post.BURST + 3000 / event_post.REFILL_SECONDS + 1
    assert writer.written["dropped"] == 1000 - len(api.created)


def test_many_reports_at_once_keep_the_newest() -> None:
    api = ApiStub()

    async def script(writer: EventWriter) -> None:
        for number in range(100):
            writer.hear(offer(f"bad {number}", str(number)), REJECTED)

    play(api, script)
    assert [body["regarding"]["resourceVersion"] for body in api.created] == [str(number) for number in range(100 - events.QUEUE, 100)]


def test_a_fleet_does_not_write_in_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.random, "uniform", random.Random(7).uniform)
    firsts = []
    for _ in range(50):
        api = ApiStub()
        hearing(api, (offer("bad"), REJECTED))
        firsts.append(api.times[0] - 1000.0)
    assert 0.0 <= min(firsts) < 0.2
    assert events.SPREAD_SECONDS - 0.2 < max(firsts) <= events.SPREAD_SECONDS


def test_five_hundred_pods_with_one_mistake_write_one_event_with_one_request_each_spread_over_the_time_they_have() -> None:
    class Store(ApiStub):
        """Takes each name once, as the API server does."""

        async def create(self, resource: Any, namespace: str, body: Any) -> Any:
            self.times.append(asyncio.get_running_loop().time())
            if any(there["metadata"]["name"] == body["metadata"]["name"] for there in self.created):
                raise ApiError("already exists", status=409, reason="AlreadyExists")
            self.created.append(body)
            return body

    store = Store()

    async def access() -> Access:
        return Access(cast("Any", store), "default")

    async def main() -> None:
        hub, source = cast("Any", SimpleNamespace(access=access)), cast("Any", SimpleNamespace(reference=REFERENCE))
        writers = [EventWriter(hub, source, Identity(pod=f"orders-{number}")) for number in range(500)]
        tasks = [asyncio.ensure_future(writer.run()) for writer in writers]
        for writer in writers:
            writer.hear(offer("bad"), REJECTED)
        await asyncio.sleep(3600)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run_in_virtual_time(main())
    assert len(store.created) == 1
    assert len(store.times) == 500
    busiest = max(sum(begin <= at < begin + 0.1 for at in store.times) for begin in store.times)
    assert busiest < 100

import asyncio
import logging

import pytest

from sidecar.config import store as store_module
from sidecar.config.last_good import LastGood
from sidecar.config.problem import ConfigRejected, Problem
from sidecar.config.store import ConfigStore, Outcome, Result

HEAD = b'apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'
GOOD = HEAD + b"lifecycle: {drainDelay: 1s}\n"
OTHER = HEAD + b"lifecycle: {drainDelay: 2s}\n"
BAD = HEAD + b"lifecycle: {drainDelay: 5}\n"


def delays(snapshots):
    return [snapshot.lifecycle.drain_delay for snapshot in snapshots]


class Subscriber:
    """Notes what it was told; refuses the snapshots whose drainDelay is in `refuses`."""

    def __init__(self, *refuses):
        self.applied = []
        self.refuses = refuses

    async def __call__(self, candidate):
        snapshot = candidate.snapshot
        if snapshot.lifecycle.drain_delay in self.refuses:
            raise ConfigRejected([Problem("listeners[0].port", 0, 0, "the port is in use (choose another)")])
        self.applied.append(snapshot)
        return {"listeners": {"in": "1"}}


def run(scenario, **more):
    async def main():
        store = ConfigStore(**more)
        return store, await scenario(store)

    return asyncio.run(main())


def test_a_valid_document_becomes_active_and_subscribers_are_told(caplog):
    caplog.set_level(logging.INFO, "outrider")
    subscriber = Subscriber()

    async def scenario(store):
        store.on_apply.append(subscriber)
        return await store.offer("file", "r1", GOOD)

    store, outcome = run(scenario)
    assert outcome == Outcome(Result.APPLIED)
    assert store.active.snapshot is subscriber.applied[0]
    assert (store.active.source, store.active.revision, store.active.snapshot.revision) == ("file", "r1", "r1")
    assert store.active.document()["lifecycle"]["drainDelay"] == "1s"
    (record,) = [record for record in caplog.records if record.event == "config_applied"]
    assert record.fields["listeners"] == {"in": "1"}
    status = store.status()
    assert (status.source, status.revision, status.rejected, status.updates) == ("file", "r1", False, {("file", "applied"): 1})
    assert status.source_connected == {"file": True}


def test_the_same_bytes_again_change_nothing():
    subscriber = Subscriber()

    async def scenario(store):
        store.on_apply.append(subscriber)
        await store.offer("file", "r1", GOOD)
        return await store.offer("configmap", "77", GOOD)

    store, outcome = run(scenario)
    assert outcome.result is Result.UNCHANGED
    assert len(subscriber.applied) == 1
    assert store.active.source == "configmap"
    assert store.updates == {("file", "applied"): 1, ("configmap", "unchanged"): 1}


def test_an_invalid_document_keeps_the_last_good_one_and_its_problems_are_shown(caplog):
    async def scenario(store):
        await store.offer("file", "r1", GOOD)
        return await store.offer("file", "r2", BAD)

    store, outcome = run(scenario)
    assert outcome.result is Result.REJECTED
    assert [problem.path for problem in store.rejected.problems] == ["lifecycle.drainDelay"]
    assert store.active.revision == "r1"
    assert store.status().rejected
    (record,) = [record for record in caplog.records if record.event == "config_rejected"]
    assert "lifecycle.drainDelay: 5 is not a duration" in record.fields["problems"][0]


def test_going_back_to_the_active_document_clears_the_problems():
    async def scenario(store):
        await store.offer("file", "r1", GOOD)
        await store.offer("file", "r2", BAD)
        return await store.offer("file", "r1", GOOD)

    store, outcome = run(scenario)
    assert (outcome.result, store.rejected) == (Result.UNCHANGED, None)


def test_the_same_wrong_bytes_are_judged_and_logged_once(caplog):
    async def scenario(store):
        return await store.offer("file", "r2", BAD), await store.offer("file", "r2", BAD)

    _, (first, second) = run(scenario)
    assert first == second
    assert len([record for record in caplog.records if record.event == "config_rejected"]) == 1


def test_a_document_that_cannot_be_applied_is_rejected_and_the_others_go_back():
    first, second = Subscriber(), Subscriber(2.0)

    async def scenario(store):
        store.on_apply += [first, second]
        await store.offer("file", "r1", GOOD)
        return await store.offer("file", "r2", OTHER)

    store, outcome = run(scenario)
    assert outcome.result is Result.REJECTED
    assert delays(first.applied) == [1.0, 2.0, 1.0]
    assert delays(second.applied) == [1.0]
    assert store.active.revision == "r1"


def test_a_document_that_could_not_be_applied_is_tried_again_when_offered_again():
    subscriber = Subscriber(1.0)

    async def scenario(store):
        store.on_apply.append(subscriber)
        first = await store.offer("file", "r1", GOOD)
        subscriber.refuses = ()
        return first, await store.offer("file", "r1", GOOD)

    store, (first, second) = run(scenario)
    assert (first.result, second.result, store.rejected) == (Result.REJECTED, Result.APPLIED, None)


@pytest.mark.expects_traceback("a document could not be applied")
def test_a_subscriber_that_breaks_is_a_rejection_without_its_text():
    async def broken(_snapshot):
        raise RuntimeError("secret")

    async def scenario(store):
        store.on_apply.append(broken)
        return await store.offer("file", "r1", GOOD)

    store, outcome = run(scenario)
    assert store.active is None
    assert "secret" not in str(outcome.problems)


def test_while_one_document_is_compiled_only_the_newest_of_the_others_is_taken(monkeypatch):
    gate = asyncio.Event()
    real = store_module.load_async

    async def slow(data, *, revision=""):
        await gate.wait()
        return await real(data, revision=revision)

    monkeypatch.setattr(store_module, "load_async", slow)

    async def scenario(store):
        offers = [asyncio.ensure_future(store.offer("file", f"r{n}", HEAD + b"lifecycle: {drainDelay: %ds}\n" % n)) for n in range(1, 6)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*offers)

    store, outcomes = run(scenario)
    assert [outcome.result for outcome in outcomes][1:] == [Result.SUPERSEDED] * 3 + [Result.APPLIED]
    assert store.active.revision == "r5"


def test_a_lost_source_is_told_once_and_again_when_it_is_back(caplog):
    caplog.set_level(logging.INFO, "outrider")

    async def scenario(store):
        store.unavailable("file", "gone")
        store.unavailable("file", "gone")
        lost = store.status().source_connected, store.troubles()
        await store.offer("file", "r1", GOOD)
        return lost

    store, lost = run(scenario)
    assert lost == ({"file": False}, {"file": "gone"})
    assert store.troubles() == {"file": ""}
    assert store.status().source_connected == {"file": True}
    assert [record.event for record in caplog.records if "source" in record.event] == ["config_source_lost", "config_source_back"]


def test_a_restart_during_a_bad_configuration_serves_the_last_good_one_and_still_shows_the_problems(tmp_path):
    async def first(store):
        await store.offer("file", "r1", GOOD)

    run(first, last_good=LastGood(tmp_path))

    async def second(store):
        await store.offer("file", "r2", BAD)
        return await store.restore()

    store, outcome = run(second, last_good=LastGood(tmp_path))
    assert outcome.result is Result.APPLIED
    assert (store.active.source, store.active.revision) == ("last_good", "r1")
    assert [problem.path for problem in store.rejected.problems] == ["lifecycle.drainDelay"]
    assert "last_good" not in store.status().source_connected


def test_only_documents_that_were_applied_are_kept(tmp_path):
    async def scenario(store):
        await store.offer("file", "r1", GOOD)
        await store.offer("file", "r2", BAD)

    run(scenario, last_good=LastGood(tmp_path))
    assert asyncio.run(LastGood(tmp_path).load()).data == GOOD

"""Several sources: what a mailbox keeps, whose word counts, when the first look is over, which last good document is restored."""

import asyncio
import contextlib

from sidecar.config.last_good import LastGood
from sidecar.config.source import FirstLook, Mailbox, Offer, Unavailable, feed
from sidecar.config.store import ConfigStore, Outcome, Result

HEAD = b'apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'
GOOD = HEAD + b"lifecycle: {drainDelay: 1s}\n"
OTHER = HEAD + b"lifecycle: {drainDelay: 2s}\n"
BAD = HEAD + b"lifecycle: {drainDelay: 5}\n"


def run(scenario, **more):
    async def main():
        store = ConfigStore(**more)
        return store, await scenario(store)

    return asyncio.run(main())


def fetch(*news):
    """What comes out of a mailbox in which these were left."""

    async def scenario():
        mailbox = Mailbox()
        for one in news:
            mailbox.put(one)
        fetched = []
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.01):
                    fetched.append(await mailbox.get())
        return fetched

    return asyncio.run(scenario())


def test_a_mailbox_holds_the_newest_document_only():
    assert fetch(Offer("file", "1", b"a"), Unavailable("file", "gone"), Offer("file", "2", b"b")) == [Offer("file", "2", b"b")]


def test_in_a_mailbox_trouble_does_not_take_back_the_document_before_it():
    news = [Offer("file", "1", b"a"), Unavailable("file", "gone")]
    assert fetch(*news) == news
    assert fetch(*news, Unavailable("file", "still gone")) == [news[0], Unavailable("file", "still gone")]


def test_in_a_mailbox_each_source_has_its_own_place():
    news = [Offer("file", "1", b"a"), Offer("configmap", "7", b"b"), Unavailable("file", "gone")]
    assert fetch(*news) == news


def feeding(*news, winner=""):
    """The store after these news, one after the other, and what was heard."""
    heard = []

    async def scenario(store):
        mailbox = Mailbox()
        task = asyncio.ensure_future(feed(mailbox, store, hear=[lambda one, outcome: heard.append((one, outcome))], winner=winner))
        for number, one in enumerate(news):
            mailbox.put(one)
            while len(heard) == number:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))

    store, _ = run(scenario)
    return store, heard


def test_news_reach_the_store_and_who_listens_hears_of_them_and_what_became_of_them():
    news = [Unavailable("file", "sidecar.yaml does not exist"), Offer("file", "r1", GOOD), Offer("file", "r2", BAD)]
    store, heard = feeding(*news)
    assert [one for one, _ in heard] == news
    assert [outcome and outcome.result for _, outcome in heard] == [None, Result.APPLIED, Result.REJECTED]
    assert store.active.revision == "r1"


def test_the_file_counts_until_the_configmap_has_given_a_document_and_no_more_after():
    store, heard = feeding(
        Unavailable("configmap", "away"),
        Offer("file", "f1", GOOD),
        Offer("configmap", "7", OTHER),
        Offer("file", "f2", GOOD + b"# edited"),
        winner="configmap",
    )
    assert (store.active.source, store.active.revision) == ("configmap", "7")
    assert heard[-1][1] is None
    assert store.connected == {"configmap": True, "file": True}


def test_a_rejected_configmap_leaves_the_file_in_force_and_its_edits_do_not_count_any_more():
    store, _ = feeding(Offer("file", "f1", GOOD), Offer("configmap", "7", BAD), Offer("file", "f2", OTHER), winner="configmap")
    assert (store.active.revision, store.rejected.revision) == ("f1", "7")


def test_a_rejected_configmap_does_not_keep_the_file_out_while_nothing_is_active():
    store, _ = feeding(Offer("configmap", "7", BAD), Offer("file", "f1", GOOD), winner="configmap")
    assert store.active.revision == "f1"


def test_a_configmap_that_is_deleted_does_not_bring_the_file_back():
    store, _ = feeding(Offer("configmap", "7", GOOD), Unavailable("configmap", "deleted"), Offer("file", "f1", OTHER), winner="configmap")
    assert store.active.revision == "7"


def look(sources, *heard, seconds=0.01):
    """Whether the first look is over after these."""

    async def scenario():
        first = FirstLook(sources)
        for news, outcome in heard:
            first.hear(news, outcome)
        begin = asyncio.get_running_loop().time()
        await first.wait(seconds)
        return asyncio.get_running_loop().time() - begin < seconds

    return asyncio.run(scenario())


def test_the_first_look_ends_with_a_document_or_when_every_source_has_spoken():
    both = ("file", "configmap")
    gone, bad = (Unavailable("file", "gone"), None), (Offer("configmap", "7", BAD), Outcome(Result.REJECTED))
    assert look(("file",), gone)
    assert not look(both, gone)
    assert not look(both, bad)
    assert look(both, gone, bad)
    assert look(both, (Offer("file", "1", GOOD), Outcome(Result.APPLIED)))


def test_a_source_can_be_waited_for_whatever_it_says_and_whatever_others_do():
    async def scenario():
        first = FirstLook(("file", "configmap"))
        waiting = asyncio.create_task(first.said("file", 60))
        first.hear(Offer("configmap", "7", GOOD), Outcome(Result.APPLIED))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        first.hear(Unavailable("file", "gone"), None)
        await waiting
        await first.said("file", 60)

    asyncio.run(scenario())


def test_a_source_that_says_nothing_is_waited_for_no_longer_than_asked():
    asyncio.run(FirstLook(("file",)).said("file", 0.01))


def test_each_reason_why_a_source_cannot_be_read_is_said_once(caplog):
    async def scenario(store):
        for message in ("away", "away", "forbidden", "forbidden"):
            store.unavailable("configmap", message)
        await store.offer("configmap", "7", GOOD)
        store.unavailable("configmap", "away")

    run(scenario)
    lost = [record.getMessage() for record in caplog.records if record.event == "config_source_lost"]
    assert lost == ["away", "forbidden", "away"]


def test_reasons_that_take_turns_are_said_once_and_the_newest_is_shown(caplog):
    async def scenario(store):
        for message in ("away", "forbidden", "away", "forbidden", "away"):
            store.unavailable("configmap", message)

    store, _ = run(scenario)
    assert [record.getMessage() for record in caplog.records] == ["away", "forbidden"]
    assert store.troubles() == {"configmap": "away"}


def test_an_outage_whose_every_reason_is_another_does_not_fill_the_log(caplog):
    async def scenario(store):
        for number in range(1000):
            store.unavailable("configmap", f"request {number} failed")

    store, _ = run(scenario)
    assert len(caplog.records) == 20
    assert store.troubles() == {"configmap": "request 999 failed"}


def test_a_source_that_was_never_asked_is_not_connected_and_nothing_is_said(caplog):
    async def scenario(store):
        store.expect("configmap")

    store, _ = run(scenario)
    assert store.status().source_connected == {"configmap": False}
    assert store.troubles() == {"configmap": "it has not answered yet"}
    assert caplog.records == []


def test_a_document_that_comes_while_the_last_good_one_is_restored_wins(tmp_path):
    """Both wait for their turn; neither is thrown away for the other."""

    async def scenario(store):
        await store.offer("configmap", "6", GOOD, origin="there")

    run(scenario, last_good=LastGood(tmp_path))

    async def race(store):
        await asyncio.gather(store.restore({"there"}), store.offer("configmap", "7", OTHER, origin="there"))

    store, _ = run(race, last_good=LastGood(tmp_path))
    assert store.active.revision == "7"


def test_the_last_good_document_of_another_configmap_is_not_restored(tmp_path, caplog):
    async def scenario(store):
        await store.offer("configmap", "6", GOOD, origin="ConfigMap shop/orders")

    run(scenario, last_good=LastGood(tmp_path))
    for origins, restored in (({"ConfigMap shop/carts"}, False), ({""}, False), ({"", "ConfigMap shop/orders"}, True)):
        store, outcome = run(lambda store, origins=origins: store.restore(origins), last_good=LastGood(tmp_path))
        assert (outcome is not None, store.active is not None) == (restored, restored)
    assert "came from ConfigMap shop/orders, which is not followed now" in caplog.text

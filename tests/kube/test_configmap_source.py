"""ConfigMapSource: what a ConfigMap's states become as news, in which order and how often."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from sidecar.config.source import Mailbox, Offer, Unavailable
from sidecar.kube.configmap import MAX_UNQUIET_SECONDS, QUIET_SECONDS, ConfigMapSource, Reference
from sidecar.kube.hub import Access
from sidecar.kube.objects import CONFIG_MAPS, Json, Selection

REFERENCE = Reference("shop", "orders", "sidecar.yaml")


class Box(Mailbox):
    """Keeps what was put."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Offer | Unavailable] = []

    def put(self, news: Offer | Unavailable) -> None:
        self.all.append(news)
        super().put(news)

    @property
    def messages(self) -> list[str]:
        return [news.message for news in self.all if isinstance(news, Unavailable)]

    @property
    def documents(self) -> list[bytes]:
        return [news.data for news in self.all if isinstance(news, Offer)]


def configmap(data: dict[str, str] | None = None, version: str = "7", uid: str = "u1", **more: Any) -> dict[str, Json]:
    found = {"metadata": {"name": "orders", "uid": uid, "resourceVersion": version}, "data": data, **more}
    return {"orders": found}


def document(text: str, version: str = "7", **more: Any) -> dict[str, Json]:
    return configmap({"sidecar.yaml": text}, version, **more)


class HubStub:
    """In the place of the hub: the test itself tells what there is."""

    def __init__(self) -> None:
        self.selections: list[Selection] = []
        self.open = 0

    def follow(self, selection: Selection, _sink: Any) -> Any:
        self.selections.append(selection)
        self.open += 1
        return SimpleNamespace(close=self.close)

    def close(self) -> None:
        self.open -= 1

    async def access(self) -> Access:
        return Access(cast("Any", None), "default-of-the-context")


def play(script: Callable[[ConfigMapSource], Awaitable[None]], reference: Reference = REFERENCE, *, linger: float = 0.0) -> Box:
    """Run `script` in the place of the API server."""
    box = Box()

    async def main() -> None:
        hub = HubStub()
        source = ConfigMapSource(cast("Any", hub), reference)
        task = asyncio.ensure_future(source.run(box))
        await asyncio.sleep(0)
        assert hub.selections == [Selection(CONFIG_MAPS, reference.namespace, "orders")]
        await script(source)
        task.cancel()
        await asyncio.wait((task,))
        assert hub.open == 0
        await asyncio.sleep(linger)

    asyncio.run(main())
    return box


def after(*states: dict[str, Json]) -> Box:
    """What is told of these states, with silence after each."""

    async def script(source: ConfigMapSource) -> None:
        for state in states:
            source.changed(state)
            await asyncio.sleep(QUIET_SECONDS * 2)

    return play(script)


def test_a_document_comes_with_its_version_its_origin_and_the_object_it_is_in() -> None:
    assert after(document("a: 1")).all == [Offer("configmap", "7", b"a: 1", "ConfigMap shop/orders key sidecar.yaml", "u1")]


def test_the_first_answer_is_told_at_once() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("a: 1"))

    assert play(script).documents == [b"a: 1"]


def test_binary_data_is_a_document_too() -> None:
    box = after(configmap(None, binaryData={"sidecar.yaml": base64.b64encode(b"a: \xc3\xa9").decode()}))
    assert box.documents == [b"a: \xc3\xa9"]


def test_binary_data_that_is_not_base64_is_said() -> None:
    assert "no Base64" in after(configmap(None, binaryData={"sidecar.yaml": "§"})).messages[0]


def test_a_missing_key_names_the_keys_that_are_there() -> None:
    box = after(configmap({"b.yaml": "x", "a.yaml": "y"}, binaryData={"c": "eA=="}))
    assert box.messages == [
        (
            "ConfigMap shop/orders has no key sidecar.yaml (it has a.yaml, b.yaml, c; write the document under sidecar.yaml, "
            "or name its key with --configmap-key)"
        )
    ]


def test_many_keys_are_not_all_named() -> None:
    message = after(configmap({f"k{number:02}": "" for number in range(30)})).messages[0]
    assert "k09 and 20 more" in message
    assert "k10" not in message


def test_a_configmap_without_any_key_is_said() -> None:
    assert after(configmap(None)).messages == ["ConfigMap shop/orders has no keys (write the document under sidecar.yaml)"]


def test_a_configmap_that_is_not_there_is_said_with_how_to_create_it_and_followed_when_it_comes() -> None:
    box = after({}, document("a: 1"))
    assert "does not exist (create it: kubectl create configmap orders --namespace shop --from-file=sidecar.yaml)" in box.messages[0]
    assert box.documents == [b"a: 1"]


def test_a_deleted_configmap_is_said_and_followed_when_it_is_created_again() -> None:
    box = after(document("a: 1"), {}, document("a: 2", "9", uid="u2"))
    assert "has been deleted (the last good configuration stays" in box.messages[0]
    assert [news.uid for news in box.all if isinstance(news, Offer)] == ["u1", "u2"]


def test_a_change_that_lasts_a_moment_is_one_document() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("first"))
        for number in range(10):
            source.changed(document(f"a: {number}", str(number + 8)))
            await asyncio.sleep(QUIET_SECONDS / 10)
        await asyncio.sleep(QUIET_SECONDS * 2)

    assert play(script).documents == [b"first", b"a: 9"]


def test_deletion_and_creation_in_one_go_are_one_change() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("a: 1"))
        source.changed({})
        source.changed(document("a: 2", "9", uid="u2"))
        await asyncio.sleep(QUIET_SECONDS * 2)

    box = play(script)
    assert (box.documents, box.messages) == ([b"a: 1", b"a: 2"], [])


def test_somebody_who_never_stops_writing_is_not_waited_for() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("first"))
        until = asyncio.get_running_loop().time() + MAX_UNQUIET_SECONDS * 3
        number = 0
        while asyncio.get_running_loop().time() < until:
            number += 1
            source.changed(document(f"a: {number}", str(number + 8)))
            await asyncio.sleep(QUIET_SECONDS / 10)

    assert len(play(script).documents) > 2


def test_the_same_state_again_is_not_told_again() -> None:
    assert len(after(document("a: 1"), document("a: 1")).all) == 1
    assert len(after({}, {}).all) == 1


def test_the_same_bytes_in_a_new_version_are_offered_so_that_the_revision_is_right() -> None:
    assert [news.revision for news in after(document("a", "1"), document("a", "2")).all if isinstance(news, Offer)] == ["1", "2"]


def test_a_loss_is_told_and_after_it_what_is_there_is_told_again() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("a: 1"))
        source.lost("the API server is away")
        source.regained()
        source.lost("the API server is away again")
        source.changed(document("a: 1"))

    box = play(script)
    assert [type(news) for news in box.all] == [Offer, Unavailable, Offer, Unavailable, Offer]
    assert box.messages == ["the API server is away", "the API server is away again"]


def test_a_change_just_before_a_loss_is_not_forgotten() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("a: 1"))
        source.changed(document("a: 2", "8"))
        source.lost("away")
        await asyncio.sleep(QUIET_SECONDS * 2)

    box = play(script)
    assert [type(news) for news in box.all] == [Offer, Offer, Unavailable]
    assert box.documents[-1] == b"a: 2"


def test_an_immutable_configmap_is_mentioned_once_and_again_when_another_takes_its_place(caplog: Any) -> None:
    after(
        document("a", "1", immutable=True),
        document("a", "2", immutable=True),
        document("b", "3", immutable=True, uid="u2"),
        document("c", "4"),
    )
    assert [record.getMessage() for record in caplog.records] == [
        "ConfigMap shop/orders is immutable: nobody can edit it, a change means to delete it and create it again"
    ] * 2


def test_objects_of_a_strange_shape_are_missing_keys_not_errors() -> None:
    for strange in ({}, {"metadata": [], "data": []}, {"data": {"sidecar.yaml": 7}, "binaryData": "x"}):
        assert "has no key" in after({"orders": strange}).messages[0]


def test_nothing_is_told_any_more_when_it_is_cancelled_while_it_waits_for_silence() -> None:
    async def script(source: ConfigMapSource) -> None:
        source.changed(document("a: 1"))
        source.changed(document("a: 2", "8"))

    assert play(script, linger=QUIET_SECONDS * 2).documents == [b"a: 1"]


def test_without_a_namespace_it_is_the_one_that_comes_with_the_access_and_until_then_the_origin_is_unknown() -> None:
    origins = []

    async def script(source: ConfigMapSource) -> None:
        origins.append(source.origin)
        await asyncio.sleep(0)
        source.changed(document("a: 1"))
        origins.append(source.origin)

    box = play(script, Reference("", "orders", "sidecar.yaml"))
    assert origins[1] == "ConfigMap default-of-the-context/orders key sidecar.yaml"
    assert [news.origin for news in box.all if isinstance(news, Offer)] == [origins[1]]


def test_the_same_name_in_another_cluster_or_under_another_key_is_another_origin() -> None:
    hub = cast("Any", HubStub())
    sources = [
        ConfigMapSource(hub, REFERENCE),
        ConfigMapSource(hub, REFERENCE._replace(key="b")),
        ConfigMapSource(hub, REFERENCE._replace(namespace="b")),
        ConfigMapSource(hub, REFERENCE, cluster="context staging"),
    ]
    assert len({source.origin for source in sources}) == len(sources)
    assert ConfigMapSource(hub, REFERENCE._replace(namespace="")).origin == ""

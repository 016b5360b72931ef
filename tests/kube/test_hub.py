"""The hub: one client, one watch per selection, both only while somebody wants them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvloop
from kube_store import Store
from reflector_kit import Heard
from support.virtual_time import run_in_virtual_time

from sidecar.kube.api import ApiError, KubeError
from sidecar.kube.hub import Hub
from sidecar.kube.objects import CONFIG_MAPS, SECRETS, Selection

ORDERS = Selection(CONFIG_MAPS, "shop", "orders")


def config_map(text: str, name: str = "orders"):
    return {"metadata": {"name": name}, "data": {"text": text}}


@asynccontextmanager
async def hub(store: Store):
    hub = Hub(store.connect)
    try:
        yield hub
    finally:
        await hub.aclose()


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_nothing_is_connected_before_somebody_asks():
    async def main() -> None:
        store = Store()
        async with hub(store):
            await asyncio.sleep(0)
        assert (store.connects, store.closed) == (0, False)

    uvloop.run(main())


def test_all_who_follow_the_same_selection_share_one_watch_and_late_ones_are_told_what_is_known():
    async def main() -> None:
        store, first, second = Store(), Heard(), Heard()
        await store.put(CONFIG_MAPS, config_map("v1"))
        async with hub(store) as h:
            h.follow(ORDERS, first)
            await first.until("changed")
            h.follow(ORDERS, second)
            assert second.news == []  # never from within `follow`
            await second.until("changed", {"orders": "v1"})
            await until(lambda: store.watching[str(ORDERS)])
            await store.put(CONFIG_MAPS, config_map("v2"))
            for heard in (first, second):
                await heard.until("changed", {"orders": "v2"})
            assert store.asked == {("list", str(ORDERS)): 1, ("watch", str(ORDERS)): 1}
        assert (store.connects, store.closed) == (1, True)

    uvloop.run(main())


def test_the_watch_ends_with_its_last_follower_and_begins_anew_with_the_next():
    async def main() -> None:
        store, heard = Store(), Heard()
        async with hub(store) as h:
            one, two = h.follow(ORDERS, heard), h.follow(ORDERS, Heard())
            await until(lambda: store.watching[str(ORDERS)] == 1)
            one.close()
            one.close()  # harmless
            await asyncio.sleep(0)
            assert store.watching[str(ORDERS)] == 1
            two.close()
            await until(lambda: store.watching[str(ORDERS)] == 0)
            assert h.statuses() == {}
            told = len(heard.news)
            await store.put(CONFIG_MAPS, config_map("v1"))
            again = Heard()
            h.follow(ORDERS, again)
            await again.until("changed", {"orders": "v1"})
            assert len(heard.news) == told
            assert store.connects == 1

    uvloop.run(main())


def test_different_objects_have_watches_of_their_own():
    async def main() -> None:
        store = Store()
        async with hub(store) as h:
            for selection in (ORDERS, ORDERS._replace(name="other"), ORDERS._replace(resource=SECRETS), ORDERS._replace(namespace="x")):
                h.follow(selection, Heard())
            await until(lambda: sum(store.watching.values()) == 4)
            assert all(status.connected for status in h.statuses().values())

    uvloop.run(main())


def test_what_names_no_namespace_is_in_the_one_that_the_access_says():
    async def main() -> None:
        store, heard = Store(namespace="elsewhere"), Heard()
        await store.put(CONFIG_MAPS, config_map("v1"), namespace="elsewhere")
        async with hub(store) as h:
            h.follow(ORDERS._replace(namespace=""), heard)
            await heard.until("changed", {"orders": "v1"})

    uvloop.run(main())


def test_a_loss_is_told_to_all_and_to_who_comes_meanwhile_and_so_is_its_end():
    async def main() -> None:
        store, first, late = Store(), Heard(), Heard()
        await store.put(CONFIG_MAPS, config_map("v1"))
        async with hub(store) as h:
            h.follow(ORDERS, first)
            await until(lambda: store.watching[str(ORDERS)])
            await store.fail(ApiError("no", status=403, reason="Forbidden"))
            await first.until("lost")
            h.follow(ORDERS, late)
            await late.until("lost")
            assert late.kinds == ["changed", "lost"]
            assert "resourceNames: [orders], verbs: [list, watch]" in late.messages[0]
            store.mend()
            for heard in (first, late):
                await heard.until("regained")

    run_in_virtual_time(main())


def test_without_access_everybody_is_told_why_and_it_is_tried_again_ever_more_seldom():
    async def main() -> None:
        store, first, late = Store(), Heard(), Heard()
        store.no_access = KubeError("no kubeconfig, and not in a cluster")
        async with hub(store) as h:
            h.follow(ORDERS, first)
            await first.until("lost", "no kubeconfig, and not in a cluster")
            h.follow(ORDERS._replace(name="other"), late)
            await late.until("lost", "no kubeconfig, and not in a cluster")
            assert h.statuses() == {}
            await asyncio.sleep(3600)
            assert 3600 / 60 <= store.connects <= 3600 / 30 + 10
            assert (first.kinds, late.kinds) == (["lost"], ["lost"])
            store.no_access = None
            await first.until("changed", {})
            await late.until("changed", {})

    run_in_virtual_time(main())


@pytest.mark.parametrize("access", [None, KubeError("no")])
def test_closing_ends_watches_that_are_being_made(access):
    async def main() -> None:
        store = Store()
        store.no_access = access
        async with hub(store) as h:
            h.follow(ORDERS, Heard())
        assert not any(store.watching.values())

    uvloop.run(main())

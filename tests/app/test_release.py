"""What a reload replaces is freed at once, by reference counting; the cycle collector is not needed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from sidecar.config.load import Loaded, load
from sidecar.config.pace import in_slices
from sidecar.model.snapshot import Snapshot
from sidecar.observe.fanout import Fanout
from sidecar.proxy.plan import make_plan, plan_in_slices
from sidecar.upstream.native import NativeTransport
from sidecar.upstream.registry import Registry


def snapshot(number: int, *, dns: bool = False) -> Snapshot:
    where = "dns: {host: localhost, port: 9}" if dns else "targets: [{url: 'http://127.0.0.1:9'}]"
    routes = "".join(
        f"  - {{name: r{number}-{n}, hostnames: [h{n % 7}.test], matches: [{{path: {{type: {kind}, value: /{n}}}}}],"
        f" backendRefs: [{{name: app{number}}}]}}\n"
        for n, kind in enumerate(["Exact", "PathPrefix", "RegularExpression"] * 10)
    )
    text = f"apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{{name: app{number}, {where}}}]\nroutes:\n{routes}"
    loaded = load(text.encode())
    assert isinstance(loaded, Loaded)
    return loaded.snapshot


@contextmanager
def cycles() -> Iterator[list[str]]:
    """The types of our own that only the collector could free, once the block has ended."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += [type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("sidecar.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def transports() -> set[int]:
    """Those that are alive: nothing can refer weakly to a compiled one."""
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, NativeTransport)}


def test_snapshots_plans_and_routers_that_were_replaced_are_freed_without_the_collector() -> None:
    async def main() -> list[str]:
        registry = Registry(Fanout(()))
        plan = None
        with cycles() as found:
            for number in range(4):
                made = snapshot(number)
                await registry.reconcile(made)
                plan = await in_slices(plan_in_slices(made, registry))
                del made
        assert plan is not None
        await registry.aclose()
        return found

    assert uvloop.run(main()) == []


def test_an_upstream_that_left_the_document_is_freed_with_the_last_plan_that_knows_it() -> None:
    async def main(*, dns: bool) -> None:
        registry = Registry(Fanout(()))
        first = snapshot(0, dns=dns)
        await registry.reconcile(first)
        plan = make_plan(first, registry)
        upstream = weakref.ref(registry.get("app0"))
        transport = id(registry.get("app0").transport)
        gc.disable()
        try:
            for number in (1, 2):  # the second look forgets what has drained
                other = snapshot(number)
                await registry.reconcile(other)
            assert upstream() is not None
            assert transport in transports()
            plan = make_plan(other, registry)
            assert upstream() is None
            assert transport not in transports()
        finally:
            gc.enable()
        assert plan.snapshot is other
        await registry.aclose()

    uvloop.run(main(dns=False))
    uvloop.run(main(dns=True))

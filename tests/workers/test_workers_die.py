"""Workers that die, hang or cannot be made: who notices, and who does not."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from support import RawClient, ScriptedUpstream
from workers_kit import (
    PATIENCE,
    admin,
    alive,
    close,
    document,
    family,
    kill,
    metrics,
    of_workers,
    open_client,
    pids,
    says,
    status,
    total,
    until,
)


def test_a_worker_that_is_killed_is_replaced_and_nobody_else_loses_anything() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            stop = asyncio.Event()
            answered, lost = 0, 0

            async def load() -> None:
                """Requests on a connection; a new one when it is lost."""
                nonlocal answered, lost
                while not stop.is_set():
                    async with await open_client(sidecar) as client:
                        try:
                            while not stop.is_set():
                                assert (await client.request()).status == 200
                                answered += 1
                        except (asyncio.IncompleteReadError, ConnectionError):
                            lost += 1

            loads = [asyncio.create_task(load()) for _ in range(8)]
            held = (await admin(sidecar, "/connections"))["inbound"]
            victim, other = await pids(sidecar)
            kill(victim)
            line = await sidecar.await_for("worker_exited")
            assert (line["pid"], line["why"]) == (victim, "signal SIGKILL")
            await sidecar.await_for("worker_started", count=3)
            before = answered

            async def more() -> bool:
                return answered > before + 50

            await until(more)
            stop.set()
            await asyncio.gather(*loads)
            now = await pids(sidecar)
            assert other in now
            assert victim not in now
            assert 1 <= lost <= 7, held  # those of the one that died, each once
            numbers = await metrics(sidecar)
            assert (numbers["outrider_workers", ""], numbers["outrider_worker_exits_total", ""]) == (2, 1)

    asyncio.run(main())


def test_counters_never_fall_when_a_worker_dies() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            for died in range(2):
                clients = [await open_client(sidecar) for _ in range(4)]
                for client in clients:
                    for _ in range(5):
                        assert (await client.request()).status == 200
                before = await metrics(sidecar)
                await close(*clients)
                kill((await pids(sidecar))[0])
                await sidecar.await_for("worker_exited", count=died + 1)

                async def two_serve() -> bool:
                    return (await metrics(sidecar))["outrider_workers", ""] == 2

                await until(two_serve)
                after = await metrics(sidecar)
                counted = [key for key in before if key[0].endswith(("_total", "_count", "_bucket", "_sum")) and "gc_" not in key[0]]
                assert counted
                assert {key: (before[key], after.get(key)) for key in counted if after.get(key, -1.0) < before[key]} == {}
            assert total(after, "outrider_requests_total") == 40

    asyncio.run(main())


def test_series_of_a_route_that_is_gone_go_with_it_also_those_of_a_worker_that_has_died() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            async with await open_client(sidecar) as one, await open_client(sidecar) as two:
                for client in (one, two):
                    assert (await client.request()).status == 200
                assert total(await metrics(sidecar), "outrider_requests_total", 'route="all"') == 2
                kill((await pids(sidecar))[0])
                await sidecar.await_for("worker_started", count=3)
                assert total(await metrics(sidecar), "outrider_requests_total", 'route="all"') == 2
            await sidecar.aapply(document(upstream.port, routes=[{"name": "other", "backendRefs": [{"name": "app"}]}]))
            assert total(await metrics(sidecar), "outrider_requests_total", 'route="all"') == 0

    asyncio.run(main())


def test_a_worker_that_dies_again_and_again_is_made_again_ever_more_slowly() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            for number in range(3):
                kill((await pids(sidecar))[0])
                await sidecar.await_for("worker_exited", count=number + 1)
                async with await open_client(sidecar) as client:  # the other serves meanwhile
                    assert (await client.request()).status == 200
                assert (await status(sidecar, "/readyz"))[0] == 200
                await sidecar.await_for("worker_started", count=3 + number)
            assert [line["restart_in_s"] for line in sidecar.events("worker_exited")] == [0.1, 0.2, 0.4]

    asyncio.run(main())


def test_without_any_worker_it_is_not_ready_and_whoever_connects_waits_for_the_next_one() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            for pid in await pids(sidecar):
                kill(pid)
            async with await open_client(sidecar) as client:
                assert (await client.request()).body == b"x"
            await sidecar.await_for("worker_started", count=4)
            assert (await status(sidecar, "/readyz"))[0] == 200

    asyncio.run(main())


def test_a_new_worker_serves_what_is_in_force() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            async with of_workers(2, document(one.port)) as sidecar:
                await sidecar.aapply(document(two.port))
                for pid in await pids(sidecar):
                    kill(pid)
                await sidecar.await_for("worker_started", count=4)
                clients = [await open_client(sidecar) for _ in range(4)]
                for client in clients:
                    assert (await client.request()).body == b"two"
                    await close(client)

    asyncio.run(main())


def test_a_worker_that_hangs_makes_the_process_fail_its_liveness_probe() -> None:
    async def main() -> None:
        async with of_workers(2, document(1)) as sidecar:
            victim = (await pids(sidecar))[1]
            os.kill(victim, signal.SIGSTOP)

            async def fails() -> bool:
                code, text = await status(sidecar, "/livez")
                return code == 503 and "worker 1 has not answered" in text

            await until(fails)
            os.kill(victim, signal.SIGCONT)

            async def recovers() -> bool:
                return (await status(sidecar, "/livez"))[0] == 200

            await until(recovers)

    asyncio.run(main())


def test_metrics_come_without_a_worker_that_hangs() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            clients = [await open_client(sidecar) for _ in range(4)]
            for client in clients:
                assert (await client.request()).status == 200
            before = total(await metrics(sidecar), "outrider_requests_total")
            victim = (await pids(sidecar))[0]
            os.kill(victim, signal.SIGSTOP)
            assert total(await metrics(sidecar), "outrider_requests_total") == before == 4
            os.kill(victim, signal.SIGCONT)
            await close(*clients)

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_worker_alone_is_none_of_its_business(number: int) -> None:
    """Terminals and service managers signal every process; who drains what is the main process's decision."""

    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            before = await pids(sidecar)
            for pid in family(sidecar.pid):
                os.kill(pid, number)
            async with await open_client(sidecar) as client:
                assert (await client.request()).status == 200
            assert await pids(sidecar) == before

    asyncio.run(main())


def test_the_process_that_forks_is_started_again_when_it_is_needed() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            victim, other = await pids(sidecar)
            (forks,) = set(family(sidecar.pid)) - {victim, other}
            kill(forks)
            async with await RawClient.open(sidecar.port(), timeout=PATIENCE) as client:
                assert (await client.request()).status == 200
            kill(victim)
            await sidecar.await_for("worker_started", count=3)
            now = await pids(sidecar)
            assert other in now
            clients = [await open_client(sidecar) for _ in range(6)]
            for client in clients:
                assert (await client.request()).status == 200
                await close(client)
            processes = [*family(sidecar.pid), other]
            assert await sidecar.astop() == 0
            assert not any(map(alive, processes))

    asyncio.run(main())

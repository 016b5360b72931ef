"""The end of a sidecar of several processes (product.md 3.7 and 3.9): what one process does, all do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from support import RawClient, ScriptedUpstream
from support.ports import free_port
from workers_kit import IN, OUT, admin, close, document, kill, of_workers, open_client, pids, says, status, until

SLOW = {"drainDelay": "0s", "drainTimeout": "60s"}


class Gate:
    """Requests wait here until the test lets them go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def __call__(self) -> None:
        """Wait."""
        self.waiting += 1
        await self.open.wait()

    def has(self, count: int) -> Callable[[], Awaitable[bool]]:
        """Whether so many wait."""

        async def full() -> bool:
            return self.waiting >= count

        return full


def test_requests_in_flight_on_every_worker_finish_and_the_exit_code_is_0() -> None:
    async def main() -> None:
        gate = Gate()
        async with ScriptedUpstream(says(b"x", wait=gate), timeout=60.0) as upstream:
            async with of_workers(3, document(upstream.port, lifecycle=SLOW)) as sidecar:
                clients = [await open_client(sidecar) for _ in range(6)]
                asked = [asyncio.create_task(client.request()) for client in clients]
                await until(gate.has(6))
                sidecar.process.send_signal(signal.SIGTERM)
                await sidecar.await_for("draining")
                assert (await status(sidecar, "/readyz"))[0] == 503
                gate.open.set()
                answers = await asyncio.gather(*asked)
                assert [(answer.status, answer.get("connection")) for answer in answers] == [(200, "close")] * 6
                assert await asyncio.to_thread(sidecar.wait) == 0
                assert sidecar.events("drained")[0]["connections_cut"] == 0
                await close(*clients)

    asyncio.run(main())


@pytest.mark.parametrize("timeout", ["1s", "60s"])
def test_what_is_cut_by_the_timeout_or_by_a_second_signal_is_counted_over_all_workers(timeout: str) -> None:
    async def main() -> None:
        gate = Gate()
        lifecycle = {"drainDelay": "0s", "drainTimeout": timeout}
        async with ScriptedUpstream(says(b"x", wait=gate), timeout=60.0) as upstream:
            async with of_workers(2, document(upstream.port, lifecycle=lifecycle)) as sidecar:
                clients = [await open_client(sidecar) for _ in range(4)]
                asked = [asyncio.create_task(client.request()) for client in clients]
                await until(gate.has(4))
                sidecar.process.send_signal(signal.SIGTERM)
                await sidecar.await_for("draining")
                if timeout == "60s":
                    sidecar.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(sidecar.wait) == 1
                assert sidecar.events("drained")[0]["connections_cut"] == 4
                failed = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(one, asyncio.IncompleteReadError | ConnectionError) for one in failed)
                await close(*clients)

    asyncio.run(main())


def test_during_the_drain_delay_new_connections_are_served() -> None:
    async def main() -> None:
        lifecycle = {"drainDelay": "3s", "drainTimeout": "20s"}
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port, lifecycle=lifecycle)) as sidecar:
            sidecar.process.send_signal(signal.SIGTERM)
            await sidecar.await_for("draining")
            for _ in range(4):
                async with await open_client(sidecar) as client:
                    answer = await client.request()
                    assert (answer.status, answer.get("connection")) == (200, "close")
            assert await asyncio.to_thread(sidecar.wait) == 0

    asyncio.run(main())


def test_a_drain_by_command_closes_the_way_in_of_every_worker_and_leaves_the_way_out() -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(says(b"x")) as upstream,
            of_workers(2, document(upstream.port, {**IN, "port": free_port()}, OUT)) as sidecar,
        ):
            inbound, outbound = sidecar.port("inbound"), sidecar.port("outbound")

            async def drained() -> bool:
                return bool((await admin(sidecar, "/drain", method="POST"))["drained"])

            await until(drained)
            assert (await status(sidecar, "/readyz"))[0] == 503
            with pytest.raises(ConnectionError):
                await RawClient.open(inbound)
            # A worker that is made now has the way out, too, and nothing else.
            for pid in await pids(sidecar):
                kill(pid)
            await sidecar.await_for("worker_started", count=4)
            async with await RawClient.open(outbound, timeout=60.0) as client:
                assert (await client.request(host=f"127.0.0.1:{upstream.port}")).status == 200
            with pytest.raises(ConnectionError):
                await RawClient.open(inbound)
            assert await sidecar.astop(signal.SIGTERM) == 0

    asyncio.run(main())


def test_quitquitquit_ends_all_processes() -> None:
    async def main() -> None:
        async with of_workers(2, document(1)) as sidecar:
            assert await admin(sidecar, "/quitquitquit", method="POST") == {"state": "stopping"}
            assert await asyncio.to_thread(sidecar.wait) == 0

    asyncio.run(main())


def test_a_worker_that_hangs_is_killed_at_the_end_and_the_exit_code_says_that_something_was_cut() -> None:
    async def main() -> None:
        lifecycle = {"drainDelay": "0s", "drainTimeout": "1s"}
        async with of_workers(2, document(1, lifecycle=lifecycle)) as sidecar:
            os.kill((await pids(sidecar))[0], signal.SIGSTOP)
            sidecar.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.wait, 60.0) == 1

    asyncio.run(main())

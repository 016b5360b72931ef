"""A document edited under several workers: all of them serve it, or none does."""

from __future__ import annotations

import asyncio
import json
import os
import signal

from support import RawClient, ScriptedUpstream
from support.ports import free_port
from workers_kit import IN, OUT, admin, close, document, kill, metrics, of_workers, open_client, pids, says, total, until


def test_an_edit_reaches_every_connection_of_every_worker() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            async with of_workers(3, document(one.port)) as sidecar:
                clients = [await open_client(sidecar) for _ in range(9)]
                assert {(await client.request()).body for client in clients} == {b"one"}
                await sidecar.aapply(document(two.port))
                assert {(await client.request()).body for client in clients} == {b"two"}
                await close(*clients)
                assert len(sidecar.events("config_applied")) == 2
                assert total(await metrics(sidecar), "outrider_config_info") == 1

    asyncio.run(main())


def test_edits_under_load_fail_no_request_and_no_connection() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            async with of_workers(2, document(one.port)) as sidecar:
                stop = asyncio.Event()
                counts = [0, 0]

                async def keep() -> None:
                    async with await open_client(sidecar) as client:
                        while not stop.is_set():
                            answer = await client.request()
                            assert (answer.status, answer.get("connection")) == (200, None)
                            counts[0] += 1

                async def come_and_go() -> None:
                    while not stop.is_set():
                        async with await open_client(sidecar) as client:
                            assert (await client.request()).status == 200
                        counts[1] += 1

                loads = [asyncio.create_task(work()) for work in (keep, keep, keep, come_and_go, come_and_go)]
                for turn in range(6):
                    await sidecar.aapply(document((two, one)[turn % 2].port, IN, *([OUT] if turn % 3 else [])))
                stop.set()
                await asyncio.gather(*loads)
                assert min(counts) > 0

    asyncio.run(main())


def test_a_listener_comes_and_goes_in_all_workers() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            await sidecar.aapply(document(upstream.port, IN, {**IN, "name": "second", "port": free_port()}))
            port = sidecar.port("second")
            for _ in range(4):
                async with await RawClient.open(port) as client:
                    assert (await client.request()).status == 200
            await sidecar.aapply(document(upstream.port))
            try:
                async with await RawClient.open(port) as client:
                    await client.request()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            else:
                raise AssertionError("somebody still listens there")

    asyncio.run(main())


def test_a_document_whose_socket_is_taken_changes_nothing_anywhere() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            async with of_workers(2, document(one.port)) as sidecar:
                taken = document(two.port, IN, {**IN, "name": "second", "port": one.port})
                line = await asyncio.to_thread(sidecar.refuse, taken)
                assert "listeners[1]" in line["problems"][0]
                clients = [await open_client(sidecar) for _ in range(4)]
                for client in clients:
                    assert (await client.request()).body == b"one"
                    await close(client)
                assert (await admin(sidecar, "/config/problems"))["problems"]
                await sidecar.aapply(document(two.port))

    asyncio.run(main())


def test_a_worker_that_dies_while_it_makes_a_document_ready_does_not_keep_it_from_the_others() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            async with of_workers(2, document(one.port)) as sidecar:
                victim = (await pids(sidecar))[0]
                os.kill(victim, signal.SIGSTOP)  # so that it cannot have answered when it dies
                sidecar.edit(document(two.port))
                await asyncio.sleep(0.5)
                kill(victim)
                await sidecar.await_for("config_applied", count=2)
                clients = [await open_client(sidecar) for _ in range(4)]
                for client in clients:
                    assert (await client.request()).body == b"two"
                    await close(client)
                assert not sidecar.events("config_rejected")

    asyncio.run(main())


def test_a_large_document_reaches_all_workers() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            routes = [
                {
                    "name": f"r{number}",
                    "matches": [{"path": {"type": "PathPrefix", "value": f"/p{number}"}}],
                    "backendRefs": [{"name": "app"}],
                }
                for number in range(2000)
            ]
            await sidecar.aapply(document(upstream.port, routes=routes))
            for number in (0, 1999):
                for _ in range(2):
                    async with await open_client(sidecar) as client:
                        assert (await client.request(f"/p{number}/x")).status == 200
            numbers = await metrics(sidecar)
            assert total(numbers, "outrider_requests_total", 'route="r1999"') == 2

    asyncio.run(main())


def test_an_edit_that_changes_the_buckets_starts_every_histogram_anew() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            for _ in range(4):
                async with await open_client(sidecar) as client:
                    assert (await client.request()).status == 200
            await metrics(sidecar)
            kill((await pids(sidecar))[0])
            await sidecar.await_for("worker_started", count=3)
            await sidecar.aapply(document(upstream.port, telemetry={"metrics": {"buckets": [0.5, 100]}}))
            numbers = await metrics(sidecar)
            assert total(numbers, "outrider_requests_total") == 4
            assert total(numbers, "outrider_request_duration_seconds_count") == 0
            for _ in range(4):
                async with await open_client(sidecar) as client:
                    assert (await client.request()).status == 200
            numbers = await metrics(sidecar)
            assert total(numbers, "outrider_request_duration_seconds_bucket", 'le="100.0"') == 4

    asyncio.run(main())


def test_the_last_good_document_is_written_once_by_the_main_process() -> None:
    async def main() -> None:
        async with of_workers(3, document(1)) as sidecar:
            folder = sidecar.folder / "state"

            async def kept() -> bool:
                return folder.exists() and [file.name for file in folder.iterdir()] == ["last-good"]

            await until(kept)
            assert json.loads((folder / "last-good").read_bytes().partition(b"\n")[0])["source"] == "file"

    asyncio.run(main())

"""`outrider run --workers N`: one sidecar to whoever looks, several processes underneath."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream
from support.upstream import response
from workers_kit import (
    IN,
    OUT,
    admin,
    alive,
    all_gone,
    close,
    document,
    family,
    metrics,
    of_workers,
    open_client,
    pids,
    says,
    status,
    total,
    until,
    workers,
)


def test_metrics_are_the_sum_of_what_every_worker_has_counted() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(3, document(upstream.port)) as sidecar:
            clients = [await open_client(sidecar) for _ in range(9)]
            for number, client in enumerate(clients):
                for _ in range(10 + number):
                    assert (await client.request("/a", method="POST", body=b"12345")).status == 200
            numbers = await metrics(sidecar)
            sent = sum(10 + number for number in range(9))
            labels = 'listener="inbound",route="all",upstream="app"'
            assert numbers["outrider_requests_total", f'{labels},method="POST",code="200",reason="none"'] == sent
            assert numbers["outrider_request_duration_seconds_count", labels] == sent
            assert numbers["outrider_request_bytes_total", labels] == sent * 5
            assert numbers["outrider_downstream_connections_active", 'listener="inbound"'] == 9
            assert numbers["outrider_downstream_connections_total", 'listener="inbound"'] == 9
            assert total(numbers, "outrider_config_info") == total(numbers, "outrider_build_info") == 1
            assert (numbers["outrider_workers", ""], numbers["outrider_worker_exits_total", ""]) == (3, 0)
            assert numbers["outrider_upstream_endpoints", 'upstream="app",state="healthy"'] == 1
            assert not [labels for _, labels in numbers if "pid" in labels or "worker" in labels]
            await close(*clients)

    asyncio.run(main())


def test_every_worker_gets_its_share_of_connections() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(4, document(upstream.port)) as sidecar:
            before = [worker["fileDescriptors"]["open"] for worker in await workers(sidecar)]
            clients = []

            async def all_have_some() -> bool:
                for _ in range(4):
                    clients.append(await open_client(sidecar))
                    assert (await clients[-1].request()).status == 200
                now = [worker["fileDescriptors"]["open"] for worker in await workers(sidecar)]
                return all(after >= old + 2 for old, after in zip(before, now, strict=True))  # a client and an upstream connection

            await until(all_have_some)
            assert (await admin(sidecar, "/connections"))["inbound"]["open"] == len(clients)
            await close(*clients)

    asyncio.run(main())


def test_max_connections_is_divided_among_the_workers() -> None:
    async def main() -> None:
        limited = document(1, {**IN, "maxConnections": 3})
        async with of_workers(2, limited) as sidecar:
            clients = [await open_client(sidecar) for _ in range(5)]

            async def is_open(wanted: int) -> bool:
                return (await admin(sidecar, "/connections"))["inbound"]["open"] == wanted

            await until(lambda: is_open(3))
            assert (await admin(sidecar, "/connections"))["inbound"]["limit"] == 3
            await close(*clients[:3])
            await close(*clients)
            await until(lambda: is_open(0))

    asyncio.run(main())


def test_the_admin_surface_shows_one_sidecar() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            clients = [await open_client(sidecar) for _ in range(6)]
            for client in clients:
                assert (await client.request("/ok")).status == 200
            (listener,) = await admin(sidecar, "/listeners")
            assert (listener["state"], listener["port"]) == ("listening", sidecar.port())
            (shown,) = await admin(sidecar, "/upstreams")
            (endpoint,) = shown["endpoints"]
            assert (endpoint["requests"], shown["pool"]["idle"]) == (6, len(upstream.connections))
            connections = (await admin(sidecar, "/connections"))["inbound"]
            assert (connections["open"], len(connections["connections"])) == (6, 6)
            runtime = await admin(sidecar, "/runtime")
            assert runtime["pid"] == sidecar.pid
            assert len({worker["pid"] for worker in runtime["workers"]} | {sidecar.pid}) == 3
            assert runtime["memory"]["rssBytes"] > max(worker["memory"]["rssBytes"] for worker in runtime["workers"])
            explained = await admin(sidecar, f"/explain?method=GET&url=http://127.0.0.1:{sidecar.port()}/x")
            assert explained["route"]["name"] == "all"
            overview = await admin(sidecar, "/overview")
            assert overview["readiness"]["ready"]
            async with await RawClient.open(sidecar.admin_port) as client:
                assert b"inbound" in (await client.request("/", host="localhost")).body
            await close(*clients)

    asyncio.run(main())


def test_what_failed_anywhere_is_found_and_the_newest_comes_first() -> None:
    async def main() -> None:
        async with of_workers(2, document(1)) as sidecar:
            for number in range(6):
                async with await open_client(sidecar) as client:
                    assert (await client.request(f"/{number}", headers=f"x-request-id: r{number}\r\n")).status == 502
                await asyncio.sleep(0.01)
            recent = await admin(sidecar, "/recent")
            told = [one["requestId"] for one in recent["failures"]]
            ended = [datetime.fromisoformat(one["time"]).timestamp() + one["durationMs"] / 1000 for one in recent["failures"]]
            assert sorted(told) == [f"r{number}" for number in range(6)]
            assert ended == sorted(ended, reverse=True)
            found = await admin(sidecar, "/why?request_id=r2")
            assert [one["path"] for one in found["records"]] == ["/2"]
            last = await admin(sidecar, "/why")
            assert [one["requestId"] for one in last["records"]] == told[:1]
            assert [one["requestId"] for one in (await admin(sidecar, "/overview"))["failures"]] == told

    asyncio.run(main())


def test_the_log_level_is_every_process_s_and_stays_in_one_that_comes_later() -> None:
    async def main() -> None:
        async with of_workers(2, document(1)) as sidecar:
            assert await admin(sidecar, "/log-level", method="PUT", body=b'{"level": "error"}') == {"level": "error"}
            first = await pids(sidecar)
            os.kill(first[0], signal.SIGKILL)
            await sidecar.await_for("worker_exited")

            async def both() -> bool:
                now = await pids(sidecar)
                return len(now) == 2 and first[0] not in now

            await until(both)
            assert not sidecar.events("worker_started", worker=0)[1:]  # an info line, which is below the level now

    asyncio.run(main())


def test_every_access_line_of_every_worker_is_whole() -> None:
    async def main() -> None:
        wide = "x" * 3000
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(3, document(upstream.port)) as sidecar:
            clients = [await open_client(sidecar) for _ in range(6)]

            async def ask(client: RawClient) -> None:
                for _ in range(100):
                    assert (await client.request("/a", headers=f"user-agent: {wide}\r\n")).status == 200

            await asyncio.gather(*map(ask, clients))
            await close(*clients)
            assert await sidecar.astop(signal.SIGTERM) == 0
            assert len(sidecar.events("access")) == 600
            assert all(json.loads(line) for line in sidecar.lines)

    asyncio.run(main())


def test_it_is_ready_only_when_all_workers_serve() -> None:
    async def main() -> None:
        async with of_workers(4, document(1)) as sidecar:
            assert (await status(sidecar, "/readyz?verbose"))[1].splitlines()[-2:] == ["[+] workers: ok", "ok"]
            assert len(sidecar.events("worker_started")) == 4
            assert (await status(sidecar, "/livez"))[0] == 200

    asyncio.run(main())


def test_a_unix_socket_is_shared_and_its_file_is_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"

    async def main() -> None:
        listener = {"name": "inbound", "bind": f"unix:{path}"}
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port, listener)) as sidecar:
            clients = [await RawClient.open_unix(str(path)) for _ in range(8)]
            for client in clients:
                assert (await client.request()).body == b"x"
            assert (await admin(sidecar, "/connections"))["inbound"]["open"] == 8
            await close(*clients)

    asyncio.run(main())
    assert not path.exists()


def test_tunnels_and_long_bodies_pass_through_workers() -> None:
    async def main() -> None:
        big = b"z" * 3_000_000

        async def play(connection: Any) -> None:
            request = await connection.read_request()
            await connection.send(response(body=request.body))

        async with ScriptedUpstream(play) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            async with await open_client(sidecar) as client:
                assert (await client.request("/", method="POST", body=big)).body == big

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_with_exit_code_0(number: int) -> None:
    async def main() -> None:
        async with of_workers(3, document(1, IN, OUT)) as sidecar:
            processes = family(sidecar.pid)
            assert len(processes) == 4  # who forks, and three workers
            assert await sidecar.astop(number) == 0
            assert not any(map(alive, processes))
            told = [line["event"] for line in sidecar.log if line["event"] != "loop_blocked"]  # a busy machine
            assert told[-3:] == ["draining", "drained", "stopped"]

    asyncio.run(main())


def test_workers_without_a_main_process_end() -> None:
    async def main() -> None:
        async with of_workers(2, document(1)) as sidecar:
            processes = family(sidecar.pid)
            sidecar.process.kill()
            await all_gone(processes)
            await asyncio.to_thread(sidecar.wait)

    asyncio.run(main())


def test_a_listener_that_cannot_listen_ends_the_start_with_one_line() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as taken:
            sidecar = of_workers(2, document(1, {**IN, "port": taken.port}), wait_ready=False)
            async with sidecar:
                assert await asyncio.to_thread(sidecar.wait) == 2
                assert any("listeners[0]" in line and "in use" in line for line in sidecar.lines)

    asyncio.run(main())


def test_a_status_address_that_is_taken_ends_it_with_one_line_and_leaves_no_process() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as taken:
            sidecar = of_workers(2, document(1), f"--status-address=127.0.0.1:{taken.port}", wait_ready=False)
            async with sidecar:
                assert await asyncio.to_thread(sidecar.wait) == 2
                assert any("--status-address" in line for line in sidecar.lines)

    asyncio.run(main())


def test_a_document_that_is_required_and_bad_ends_it_with_78() -> None:
    async def main() -> None:
        bad = of_workers(2, document(1, routes=3), "--require-config", wait_ready=False)
        async with bad:
            assert await asyncio.to_thread(bad.wait) == 78

    asyncio.run(main())

"""A document edited under a running sidecar (product.md 3.6)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.ports import free_port
from support.upstream import response

IN = {"name": "inbound", "port": 0, "bind": "127.0.0.1"}
OUT = {"name": "outbound", "port": 0, "bind": "127.0.0.1", "mode": "Forward"}


def document(port: int, *listeners: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": list(listeners) or [IN],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
        "lifecycle": {"drainDelay": "0s", "drainTimeout": "2s"},
        **more,
    }


def says(text: bytes) -> ScriptedUpstream:
    """An upstream that answers every request with `text`."""

    async def play(connection: Any) -> None:
        while True:
            await connection.read_request()
            await connection.send(response(body=text))

    return ScriptedUpstream(play)


async def admin(sidecar: Sidecar, path: str) -> Any:
    async with await RawClient.open(sidecar.admin_port) as client:
        return json.loads((await client.request(path, host="localhost")).body)


def test_an_edit_moves_traffic_without_dropping_a_connection() -> None:
    async def main() -> None:
        async with says(b"one") as one, says(b"two") as two, Sidecar(document(one.port)) as sidecar:
            async with await RawClient.open(sidecar.port()) as client:
                assert (await client.request()).body == b"one"
                await sidecar.aapply(document(two.port))
                assert (await client.request()).body == b"two"

    asyncio.run(main())


def test_edits_under_load_fail_no_request() -> None:
    async def main() -> None:
        async with says(b"one") as one, says(b"two") as two, Sidecar(document(one.port)) as sidecar:
            stop = asyncio.Event()
            seen: set[bytes] = set()

            async def load() -> int:
                count = 0
                async with await RawClient.open(sidecar.port()) as client:
                    while not stop.is_set():
                        answer = await client.request()
                        assert (answer.status, answer.get("connection")) == (200, None)
                        seen.add(answer.body)
                        count += 1
                return count

            loads = [asyncio.create_task(load()) for _ in range(4)]
            for turn in range(6):
                await sidecar.aapply(document((two, one)[turn % 2].port, IN, *([OUT] if turn % 3 else [])))
            stop.set()
            assert min(await asyncio.gather(*loads)) > 0
            assert seen == {b"one", b"two"}

    asyncio.run(main())


def test_a_bad_edit_changes_nothing_and_is_told() -> None:
    async def main() -> None:
        async with says(b"one") as one, Sidecar(document(one.port)) as sidecar:
            line = await asyncio.to_thread(sidecar.refuse, document(one.port, routse=[]))
            assert "routse" in line["problems"][0]
            async with await RawClient.open(sidecar.port()) as client:
                assert (await client.request()).body == b"one"
            problems = (await admin(sidecar, "/config/problems"))["problems"]
            assert "routse" in problems[0]["path"] + problems[0]["message"]

    asyncio.run(main())


def test_a_port_in_use_rejects_the_document_and_the_old_one_stays() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            async with says(b"one") as one, Sidecar(document(one.port)) as sidecar:
                busy = {**OUT, "port": taken.getsockname()[1]}
                line = await asyncio.to_thread(sidecar.refuse, document(one.port, {**IN, "name": "new"}, busy))
                assert "listeners[1]: cannot listen on" in line["problems"][0]
                assert "in use" in line["problems"][0]
                assert [entry["name"] for entry in await admin(sidecar, "/listeners")] == ["inbound"]
                async with await RawClient.open(sidecar.port()) as client:
                    assert (await client.request()).body == b"one"

    asyncio.run(main())


def test_listeners_come_and_go_and_the_log_tells_where() -> None:
    async def main() -> None:
        async with says(b"one") as one, Sidecar(document(one.port)) as sidecar:
            inbound = sidecar.port()
            await sidecar.aapply(document(one.port, IN, {**OUT, "port": free_port()}))
            assert sidecar.port() == inbound
            outbound = sidecar.port("outbound")
            async with await RawClient.open(outbound) as client:
                assert (await client.request()).body == b"one"
                await sidecar.aapply(document(one.port, IN))
                assert await client.read_until_close() == b""
            with pytest.raises(ConnectionRefusedError):
                await RawClient.open(outbound)

    asyncio.run(main())


def test_a_request_in_flight_on_a_removed_listener_finishes() -> None:
    async def main() -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def slow(connection: Any) -> None:
            await connection.read_request()
            asked.set()
            await go.wait()
            await connection.send(response(body=b"late"))

        async with ScriptedUpstream(slow) as upstream, Sidecar(document(upstream.port, IN, OUT)) as sidecar:
            async with await RawClient.open(sidecar.port("outbound")) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.wait_for(asked.wait(), 30)
                await sidecar.aapply(document(1, IN))
                go.set()
                answer = await client.read_response()
                assert (answer.body, answer.get("connection")) == (b"late", "close")

    asyncio.run(main())


def test_a_tunnel_outlives_the_listener_its_route_and_the_drain_timeout() -> None:
    async def main() -> None:
        async def echo(connection: Any) -> None:
            while data := await connection.read_some():
                await connection.send(data)

        async with ScriptedUpstream(echo) as upstream:
            port = upstream.port
            allow = {**OUT, "allow": [f"127.0.0.1:{port}"]}
            lifecycle = {"drainDelay": "0s", "drainTimeout": "100ms"}
            async with Sidecar(
                document(1, IN, allow, routes=[{"listener": "inbound", "backendRefs": [{"name": "app"}]}], lifecycle=lifecycle)
            ) as sidecar:
                async with await RawClient.open(sidecar.port("outbound")) as client:
                    await client.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                    assert (await client.read_response(to="CONNECT")).status == 200
                    await client.send(b"before")
                    assert await client.read_exactly(6) == b"before"
                    await sidecar.aapply(document(1, IN, lifecycle=lifecycle))
                    await asyncio.sleep(0.4)
                    await client.send(b"after")
                    assert await client.read_exactly(5) == b"after"
                    client.half_close()
                    assert await client.read_until_close() == b""

    asyncio.run(main())


def test_a_unix_socket_and_ipv6_are_listeners_too(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"

    async def main() -> None:
        async with says(b"one") as one:
            unix = {"name": "unix", "bind": f"unix:{path}"}
            six = {"name": "six", "port": 0, "bind": "::"}
            async with Sidecar(document(one.port, unix, six)) as sidecar:
                async with await RawClient.open_unix(str(path)) as client:
                    assert (await client.request()).body == b"one"
                for host in ("::1", "127.0.0.1"):
                    async with await RawClient.open(sidecar.port("six"), host) as client:
                        assert (await client.request()).body == b"one"

    asyncio.run(main())
    assert not path.exists()


def test_max_connections_makes_the_rest_wait() -> None:
    async def main() -> None:
        async with says(b"one") as one, Sidecar(document(one.port, {**IN, "maxConnections": 1})) as sidecar:
            first, second = await RawClient.open(sidecar.port()), await RawClient.open(sidecar.port())
            assert (await first.request()).body == b"one"
            await second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await second.read_nothing()
            await first.close()
            assert (await second.read_response()).body == b"one"
            await second.close()

    asyncio.run(main())


def test_a_drain_during_a_reload_ends_the_process() -> None:
    with Sidecar(document(1)) as sidecar:
        sidecar.edit(document(2, IN, OUT))
        assert sidecar.stop(signal.SIGTERM, timeout=30) == 0

"""Opening connections: which error means what, happy eyeballs, unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket

import pytest
import uvloop
from support import ScriptedUpstream, answer, response
from support.ports import free_port
from upstream_fakes import black_hole, here

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.upstream import connect
from sidecar.upstream.connect import connect_error, interleave, open_connection

RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


async def open_and_close(endpoint: Endpoint, addresses: list[str]) -> str:
    connection = await open_connection(endpoint, addresses)
    sock = connection.transport.get_extra_info("socket")
    assert sock.family == socket.AF_UNIX or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.endpoint is endpoint
    peer = sock.getpeername()
    connection.abort()
    await asyncio.sleep(0.01)
    return peer[0] if isinstance(peer, tuple) else peer


@pytest.mark.parametrize("run", RUNNERS)
def test_a_listening_address_is_connected_to(run) -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream:
            assert await open_and_close(here(upstream.port), ["127.0.0.1"]) == "127.0.0.1"

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_refused_connect_is_502_connection_refused(run) -> None:
    async def main() -> None:
        for addresses in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
            with pytest.raises(UpstreamError) as caught:
                await open_connection(here(free_port()), addresses)
            assert (caught.value.reason, caught.value.status, caught.value.phase) == (Reason.CONNECTION_REFUSED, 502, Phase.CONNECT)

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_an_address_that_does_not_answer_is_overtaken_by_the_next(run, monkeypatch) -> None:
    monkeypatch.setattr(connect, "STAGGER", 0.02)

    async def main() -> None:
        with black_hole("127.0.0.2") as port:
            async with ScriptedUpstream(answer(response()), host="127.0.0.3", port=port):
                assert await open_and_close(Endpoint("name", port), ["127.0.0.2", "127.0.0.3"]) == "127.0.0.3"

    run(main())


def test_after_a_failure_the_next_address_is_tried_at_once(monkeypatch) -> None:
    monkeypatch.setattr(connect, "STAGGER", 3600.0)

    async def main() -> None:
        async with ScriptedUpstream(answer(response()), host="127.0.0.3") as upstream:
            assert await open_and_close(here(upstream.port), ["127.0.0.2", "127.0.0.3"]) == "127.0.0.3"

    uvloop.run(main())


def test_families_take_turns_beginning_with_the_first() -> None:
    assert interleave(["::1", "::2", "::3", "1.1.1.1", "2.2.2.2"]) == ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]
    assert interleave(["1.1.1.1", "2.2.2.2", "::1"]) == ["1.1.1.1", "::1", "2.2.2.2"]


@pytest.mark.parametrize("run", RUNNERS)
def test_a_unix_socket_is_connected_to(run, tmp_path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        async with ScriptedUpstream(answer(response()), unix_path=path):
            assert await open_and_close(Endpoint("", 0, unix_path=path), []) == path

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_unix_socket_whose_backlog_is_full_is_waited_for(run, tmp_path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            listener.setblocking(False)
            fillers = []
            while True:
                filler = socket.socket(socket.AF_UNIX)
                filler.setblocking(False)
                fillers.append(filler)
                try:
                    filler.connect(path)
                except BlockingIOError:
                    break
            opening = asyncio.ensure_future(open_connection(Endpoint("", 0, unix_path=path), []))
            await asyncio.sleep(0.05)
            assert not opening.done()
            accepted = [listener.accept()[0]]
            connection = await opening
            accepted.append(listener.accept()[0])
            connection.abort()
            for sock in (*fillers, *accepted):
                sock.close()
            await asyncio.sleep(0.01)

    run(main())


def test_a_missing_unix_socket_is_502_connection_refused(tmp_path) -> None:
    async def main() -> None:
        with pytest.raises(UpstreamError) as caught:
            await open_connection(Endpoint("", 0, unix_path=str(tmp_path / "nobody")), [])
        assert (caught.value.reason, caught.value.status) == (Reason.CONNECTION_REFUSED, 502)

    uvloop.run(main())


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (errno.ECONNREFUSED, Reason.CONNECTION_REFUSED, 502),
        (errno.EACCES, Reason.CONNECTION_REFUSED, 502),
        (errno.ETIMEDOUT, Reason.CONNECTION_TIMEOUT, 504),
        (errno.ENETUNREACH, Reason.DESTINATION_UNAVAILABLE, 502),
        (errno.EHOSTUNREACH, Reason.DESTINATION_UNAVAILABLE, 502),
        (errno.ECONNRESET, Reason.CONNECTION_TERMINATED, 502),
    ],
)
def test_each_system_error_has_its_reason(code: int, reason: Reason, status: int) -> None:
    error = connect_error(OSError(code, os.strerror(code)), here(1))
    assert (error.reason, error.status, error.phase) == (reason, status, Phase.CONNECT)


def test_out_of_descriptors_is_503_with_retry_after_and_logged_once(caplog, monkeypatch) -> None:
    monkeypatch.setattr(connect, "_exhaustion_logged_at", [-1e9])

    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for _ in range(3):
                with pytest.raises(UpstreamError) as caught:
                    await open_connection(here(1), ["127.0.0.1"])
                assert (caught.value.reason, caught.value.status, caught.value.retry_after) == (Reason.CONNECTION_LIMIT_REACHED, 503, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    uvloop.run(main())
    assert [record.event for record in caplog.records] == ["sockets_exhausted"]


def test_a_connect_that_meets_itself_is_refused(monkeypatch) -> None:
    async def to_itself(sock: socket.socket, _address: tuple[str, int]) -> None:
        sock.bind(("127.0.0.1", 0))
        sock.connect_ex(sock.getsockname())
        await asyncio.sleep(0.01)

    monkeypatch.setattr(connect, "_connect_socket", to_itself)

    async def main() -> None:
        with pytest.raises(UpstreamError) as caught:
            await open_connection(here(1), ["127.0.0.1"])
        assert caught.value.reason is Reason.CONNECTION_REFUSED

    uvloop.run(main())


class _Leaving(UpstreamConnection):
    """Ends as soon as it is connected; then somebody else gets its descriptor's number."""

    stranger = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.abort()
        self.loop.call_soon(self._open)

    def _open(self) -> None:
        self.stranger = os.open(os.devnull, os.O_RDONLY)


@pytest.mark.parametrize("run", RUNNERS)
def test_a_connection_that_ends_while_it_is_handed_over_closes_its_descriptor_once(run, monkeypatch) -> None:
    made: list[_Leaving] = []

    def make() -> _Leaving:
        made.append(_Leaving())
        return made[0]

    monkeypatch.setattr("sidecar.upstream.connect.UpstreamConnection", make)

    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream:
            with contextlib.suppress(UpstreamError):
                await open_connection(here(upstream.port), ["127.0.0.1"])
            await asyncio.sleep(0.01)
            gc.collect()
            os.fstat(made[0].stranger)
            os.close(made[0].stranger)

    run(main())

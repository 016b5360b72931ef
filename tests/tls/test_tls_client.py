"""TLS towards upstreams, byte by byte: handshakes that fail in every way, sessions, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from support.certificates import Pair, authority, intermediate, issue
from support.tls import CA, CLIENT, LOCAL, OTHER_CA, server
from tls_fakes import Peer, answering, connect, context, gone, reset, shaking

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.exchange import Attempt
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Timeouts
from sidecar.model.tls import MinVersion, UpstreamTls
from sidecar.policy.deadline import Deadlines
from sidecar.tls import contexts
from sidecar.tls.material import KeyPair
from sidecar.upstream.native import keep_session

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
MIDDLE = intermediate(CA, "in between")
BELOW = issue(MIDDLE, "below", hosts=["127.0.0.1"])


async def ask(connection: UpstreamConnection) -> bytes:
    """One GET and its whole body; the connection is kept. Raises UpstreamError."""
    request = OutboundRequest(b"GET", b"/", [(b"Host", b"host", b"a")], [], 0, None)
    async with asyncio.timeout(15.0):
        response = await connection.exchange(
            request, Attempt(1, 0.0), Deadlines(Timeouts()), lambda _: None, lambda _connection, _keep: None
        )
        body = b""
        try:
            while piece := await response.body.read():
                body += piece
        finally:
            response.release()
    return body


async def refused(port: int, **more: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await connect(port, **more)
    assert caught.value.phase is Phase.CONNECT, "nothing of a request has left us"
    return caught.value


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_secured_connection_carries_one_exchange_after_the_other(run: Callable[[Any], None], version: ssl.TLSVersion) -> None:
    async def main() -> None:
        with Peer(shaking(server(minimum_version=version, maximum_version=version), answering(OK))) as peer:
            connection = await connect(peer.port)
            for _ in range(3):
                assert await ask(connection) == b"ok"
            assert connection.secure
            await gone(connection)

    run(main())


@pytest.mark.parametrize(
    ("pair", "chain", "said"),
    [
        (issue(CA, "late", hosts=["127.0.0.1"], valid=(-48, -1)), b"", "certificate has expired"),
        (issue(CA, "early", hosts=["127.0.0.1"], valid=(24, 48)), b"", "certificate is not yet valid"),
        (issue(CA, "other", hosts=["127.0.0.2", "a.test"]), b"", "IP address mismatch"),
        (issue(OTHER_CA, "strange", hosts=["127.0.0.1"]), b"", "unable to get local issuer certificate"),
        (authority("alone"), b"", "self-signed certificate"),
        (BELOW, b"", "unable to get local issuer certificate"),
        (BELOW, CA.pem, "unable to get local issuer certificate"),
        (issue(CA, "client", hosts=["127.0.0.1"], client=True), b"", "unsuitable certificate purpose"),
    ],
    ids=["expired", "early", "name", "unknown", "self-signed", "no intermediate", "wrong intermediate", "purpose"],
)
def test_a_certificate_that_is_wrong_is_told_by_the_way_in_which_it_is(pair: Pair, chain: bytes, said: str) -> None:
    async def main() -> None:
        with Peer(shaking(server(pair, chain=chain))) as peer:
            error = await refused(peer.port)
            assert (error.reason, error.status) == (Reason.TLS_CERTIFICATE_ERROR, 502)
            assert said in error.detail
        assert "alert" in str(peer.errors[0]).lower() or isinstance(peer.errors[0], ConnectionError), "the server is told"

    uvloop.run(main())


@pytest.mark.parametrize("chain", [MIDDLE.pem, OTHER_CA.pem + MIDDLE.pem])
def test_a_chain_is_found_whatever_its_order(chain: bytes) -> None:
    async def main() -> None:
        with Peer(shaking(server(BELOW, chain=chain), answering(OK))) as peer:
            connection = await connect(peer.port)
            assert await ask(connection) == b"ok"
            await gone(connection)

    uvloop.run(main())


def test_an_intermediate_authority_may_be_the_one_that_is_believed() -> None:
    async def main() -> None:
        with Peer(shaking(server(BELOW), answering(OK))) as peer:
            connection = await connect(peer.port, context(ca=MIDDLE))
            assert await ask(connection) == b"ok"
            await gone(connection)

    uvloop.run(main())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_server_of_old_versions_only_is_refused_whoever_says_so_first() -> None:
    old = server(minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED, maximum_version=TLS12)
    ancient = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ancient.load_default_certs()
    ancient.minimum_version, ancient.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    ancient.set_ciphers("ALL:@SECLEVEL=0")
    KeyPair(LOCAL.pem, LOCAL.key_pem).load_into(ancient)

    async def main() -> None:
        with Peer(shaking(ancient)) as peer:
            assert (await refused(peer.port)).reason in (Reason.TLS_ALERT_RECEIVED, Reason.TLS_PROTOCOL_ERROR)
        with Peer(shaking(old)) as peer:
            error = await refused(peer.port, made=context(UpstreamTls(system_ca=False, min_version=MinVersion.TLS13)))
            assert error.reason is Reason.TLS_ALERT_RECEIVED
            assert "protocol version" in error.detail

    uvloop.run(main())


def test_a_missing_client_certificate_is_an_alert_in_1_2_and_1_3() -> None:
    async def main() -> None:
        with Peer(shaking(server(clients=CA, maximum_version=TLS12))) as peer:
            assert (await refused(peer.port)).reason is Reason.TLS_ALERT_RECEIVED
        with Peer(shaking(server(clients=CA, minimum_version=TLS13))) as peer:
            connection = await connect(peer.port)  # in 1.3 the client has finished before the server has looked
            with pytest.raises(UpstreamError) as caught:
                await ask(connection)
            assert caught.value.reason in (Reason.TLS_ALERT_RECEIVED, Reason.CONNECTION_TERMINATED)
            await gone(connection)

    uvloop.run(main())


def test_a_client_certificate_of_an_unknown_authority_is_refused_by_the_server() -> None:
    async def main() -> None:
        strange = issue(OTHER_CA, "strange", client=True)
        with Peer(shaking(server(clients=CA, maximum_version=TLS12))) as peer:
            error = await refused(peer.port, made=context(certificate=KeyPair(strange.pem, strange.key_pem)))
            assert error.reason is Reason.TLS_ALERT_RECEIVED
        with Peer(shaking(server(clients=CA), answering(OK))) as peer:
            connection = await connect(peer.port, context(certificate=KeyPair(CLIENT.pem, CLIENT.key_pem)))
            assert await ask(connection) == b"ok"
            await gone(connection)

    uvloop.run(main())


def close_at_once(_sock: socket.socket) -> None: ...


def reset_at_once(sock: socket.socket) -> None:
    sock.recv(1)
    reset(sock)


def plain(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def half_a_record(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"\x16\x03\x03\x40\x00half")


def an_alert(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (close_at_once, Reason.CONNECTION_TERMINATED),
        (reset_at_once, Reason.CONNECTION_TERMINATED),
        (half_a_record, Reason.CONNECTION_TERMINATED),
        (plain, Reason.TLS_PROTOCOL_ERROR),
        (an_alert, Reason.TLS_ALERT_RECEIVED),
    ],
)
@pytest.mark.parametrize("run", RUNNERS)
def test_what_is_no_handshake_is_told_by_what_it_was(run: Callable[[Any], None], play: Any, reason: Reason) -> None:
    async def main() -> None:
        with Peer(play) as peer:
            assert (await refused(peer.port)).reason is reason

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_cancelled_handshake_leaves_nothing_behind(run: Callable[[Any], None]) -> None:
    came, ended = threading.Event(), threading.Event()

    def silent(sock: socket.socket) -> None:
        sock.recv(4096)
        came.set()
        sock.recv(1)
        ended.set()

    async def main() -> None:
        with Peer(silent) as peer:
            task = asyncio.ensure_future(connect(peer.port))
            while not came.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not ended.is_set() and not peer.errors:
                await asyncio.sleep(0.01)

    run(main())


@pytest.mark.parametrize("turns", range(8))
def test_a_connect_cancelled_at_any_turn_of_the_loop_leaves_nothing_behind(turns: int) -> None:
    async def main() -> None:
        with Peer(shaking(server())) as peer:
            task = asyncio.ensure_future(connect(peer.port))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await gone(await task)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)

    uvloop.run(main())


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_session_is_resumed_with_the_same_endpoint_name_and_context_only(version: ssl.TLSVersion) -> None:
    reused: list[bool] = []

    def then(secured: ssl.SSLSocket) -> None:
        reused.append(bool(secured.session_reused))
        answering(OK)(secured)

    async def main() -> None:
        made = context()
        with Peer(shaking(server(minimum_version=version, maximum_version=version), then)) as peer:
            for which, name in ((made, "127.0.0.1"), (made, "127.0.0.1"), (made, "a.test"), (context(), "127.0.0.1")):
                connection = await connect(peer.port, which, name)
                await ask(connection)
                keep_session(connection)
                await gone(connection)
        assert reused == [False, True, False, False]

    uvloop.run(main())


def test_sessions_are_bounded() -> None:
    made = context()

    class Fake:
        session = type("Session", (), {"has_ticket": True, "timeout": 300})()
        server_hostname = "a"

    for number in range(contexts.SESSIONS_MAX + 50):
        made.keep_session(str(number), Fake())  # type: ignore[arg-type]
    assert len(made._sessions) == contexts.SESSIONS_MAX


def test_a_session_that_was_resumed_is_kept_until_half_of_its_life_is_over_and_no_other_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of one costs 6 KiB that never come back, until Python 3.12.8 and 3.13.1."""
    read: list[int] = []
    now = [1000.0]

    class Session:
        has_ticket, timeout = True, 300

    class Connection:
        server_hostname = "a.test"

        def __init__(self, *, reused: bool) -> None:
            self.session_reused = reused

        @property
        def session(self) -> Session:
            read.append(1)
            return Session()

    monkeypatch.setattr(contexts, "monotonic", lambda: now[0])
    made = contexts.ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    for at, reused, readings in ((0, False, 1), (1, True, 1), (149, True, 1), (149, False, 2), (298, True, 2), (300, True, 3)):
        now[0] = 1000.0 + at
        made.keep_session("a", Connection(reused=reused))  # type: ignore[arg-type]
        assert (len(read), made.session("a", "a.test") is not None) == (readings, True), at
    assert made.session("0", "a") is None


def until_close(end: Callable[[ssl.SSLSocket], None]) -> Callable[[ssl.SSLSocket], None]:
    def then(secured: ssl.SSLSocket) -> None:
        secured.recv(4096)
        secured.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        end(secured)

    return then


def notify(secured: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        secured.unwrap()


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_body_that_ends_with_the_connection_is_whole_only_behind_a_close_notify(version: ssl.TLSVersion) -> None:
    async def main() -> None:
        made = server(minimum_version=version, maximum_version=version)
        with Peer(shaking(made, until_close(notify))) as peer:
            connection = await connect(peer.port)
            assert await ask(connection) == b"all of it"
            await gone(connection)
        with Peer(shaking(made, until_close(lambda secured: secured.shutdown(socket.SHUT_WR)))) as peer:
            connection = await connect(peer.port)
            with pytest.raises(UpstreamError) as caught:
                await ask(connection)
            assert caught.value.reason is Reason.HTTP_RESPONSE_INCOMPLETE
            await gone(connection)

    uvloop.run(main())


def test_a_record_that_was_tampered_with_ends_the_connection() -> None:
    def then(secured: ssl.SSLSocket) -> None:
        secured.recv(4096)
        raw = socket.socket(fileno=secured.detach())
        with raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            raw.recv(4096)

    async def main() -> None:
        with Peer(shaking(server(), then)) as peer:
            connection = await connect(peer.port)
            with pytest.raises(UpstreamError) as caught:
                await ask(connection)
            assert caught.value.reason is Reason.TLS_PROTOCOL_ERROR
            await gone(connection)

    uvloop.run(main())


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("size", [1, 16384, 16385, 3_000_000])
def test_long_bodies_come_whole_and_reading_can_be_paused_in_between(run: Callable[[Any], None], size: int) -> None:
    body = bytes(index * 7 % 251 for index in range(1000)) * (size // 1000 + 1)

    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body[:size]
        with Peer(shaking(server(), answering(answer))) as peer:
            connection = await connect(peer.port)
            connection.pause_reading()
            await asyncio.sleep(0.02)
            assert await ask(connection) == body[:size]
            await gone(connection)

    run(main())


def test_each_direction_of_a_tunnel_ends_by_itself() -> None:
    def then(secured: ssl.SSLSocket) -> None:
        heard = b""
        while data := secured.recv(4096):
            heard += data
        secured.sendall(b"heard " + heard)
        notify(secured)

    async def main() -> None:
        with Peer(shaking(server(minimum_version=TLS13), then)) as peer:
            stream = (await connect(peer.port)).stream()
            await stream.write(b"all")
            stream.write_eof()
            heard = b""
            async with asyncio.timeout(10.0):
                while data := await stream.read():
                    heard += data
            assert heard == b"heard all"
            stream.abort()
            await asyncio.sleep(0.01)

    uvloop.run(main())

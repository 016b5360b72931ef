"""TLS towards clients: handshakes within their bounds, certificates that change, ports that begin or cease to speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from support import RawClient
from support.certificates import issue
from support.engine import Recorder
from support.tls import CA, CLIENT, LOCAL, OTHER_CA, client

from sidecar.http1.server_connection import ServerConnection
from sidecar.model.reason import Rejection
from sidecar.model.snapshot import Listener, Mode, Snapshot
from sidecar.model.tls import CaRef, CertificateRef, ClientAuth, Handshake, ListenerTls
from sidecar.server import handshakes
from sidecar.server.port import Port, PortState
from sidecar.tls.material import CaBundle, KeyPair
from sidecar.tls.store import Reference, TlsStore

LONG = 60.0
CERTIFICATE = CertificateRef(name="mine")
CLIENTS = CaRef(name="clients")
TLS = ListenerTls(certificates=(CERTIFICATE,))


class Value:
    """A follower whose value a test changes."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.problem = ""
        self.changed: Callable[[], None] = lambda: None

    async def settled(self) -> None: ...

    def close(self) -> None: ...

    def become(self, value: Any) -> None:
        self.value = value
        self.changed()


class World:
    """One port on the loopback whose connections are answered with the target that they asked for."""

    def __init__(self, tls: ListenerTls | None, **listener: Any) -> None:
        self.listener = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE, tls=tls, **listener)
        self.seen = Recorder()
        self.values: dict[Reference, Value] = {
            CERTIFICATE: Value(KeyPair(LOCAL.pem, LOCAL.key_pem)),
            CLIENTS: Value(CaBundle(CA.pem)),
        }
        self.store = TlsStore(objects=self._follow)
        self.gate = asyncio.Event()
        self.gate.set()

    def _follow(self, reference: Reference, changed: Callable[[], None]) -> Value:
        self.values[reference].changed = changed
        return self.values[reference]

    async def want(self, listener: Listener) -> None:
        await self.store.want(Snapshot(revision="", hash="", listeners=(listener,), upstreams={}, routes=()))

    async def handler(self, connection: ServerConnection) -> None:
        while (head := await connection.next_request()) is not None:
            await self.gate.wait()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head.path) + head.path)

    async def client(self, **secured: Any) -> RawClient:
        return await RawClient.open(self.port.address.port, **{"ssl": client(), **secured})

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def world(tls: ListenerTls | None = TLS, **listener: Any) -> AsyncIterator[World]:
    made = World(tls, **listener)
    await made.want(made.listener)
    made.port = Port(made.listener, made.seen, made.store)
    made.port.open(made.handler)
    try:
        yield made
    finally:
        await made.port.aclose()
        await made.store.aclose()
        await asyncio.sleep(0.01)


def live(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONG * 2):
                await test(**arguments)

        uvloop.run(bounded())

    return run


@live
async def test_a_client_that_says_nothing_is_let_go_when_its_time_is_over_and_makes_room() -> None:
    async with world(header_timeout=0.2, max_connections=1) as w:
        async with await RawClient.open(w.port.address.port) as silent:
            assert await silent.read_until_close() == b""
        assert w.seen.handshakes == [Handshake.TIMEOUT]
        async with await w.client() as one:
            assert (await one.request("/x")).body == b"/x"


@live
async def test_the_oldest_of_too_many_handshakes_is_dropped_and_an_honest_client_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "PENDING_MAX", 4)
    async with world() as w:
        silent = [await RawClient.open(w.port.address.port) for _ in range(8)]
        await w.until(lambda: w.seen.handshakes.count(Handshake.DROPPED) == 4)
        async with await w.client() as one:
            assert (await one.request("/x")).body == b"/x"
        assert await silent[0].read_until_close() == b""
        for one in silent:
            await one.close()
        await w.until(lambda: not w.port._handshakes.pending)


@live
async def test_plain_http_on_a_tls_port_is_answered_in_the_clear_and_counted() -> None:
    async with world() as w:
        for method in ("GET", "DELETE"):
            async with await RawClient.open(w.port.address.port) as plain:
                await plain.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                reply = await plain.read_response()
                assert (reply.status, reply.get("connection")) == (400, "close")
                assert b"https://" in reply.body
        assert w.seen.handshakes == [Handshake.PLAIN_TEXT] * 2
        assert w.seen.rejected == [Rejection.PLAIN_ON_TLS_PORT] * 2


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"", Handshake.CLOSED),
        (b"\x16\x03\x01", Handshake.CLOSED),
        (b"\x00" * 64, Handshake.PROTOCOL_ERROR),
        (b"\x16\x03\x01\xff\xff" * 9, Handshake.PROTOCOL_ERROR),
    ],
)
@live
async def test_what_is_no_handshake_is_counted_by_what_it_was_and_gives_its_place_back(data: bytes, result: Handshake) -> None:
    async with world(max_connections=1) as w:
        async with await RawClient.open(w.port.address.port) as odd:
            await odd.send(data)
            if result is Handshake.CLOSED:
                odd.half_close()
            await w.until(lambda: bool(w.seen.handshakes))
        assert w.seen.handshakes == [result]
        async with await w.client() as one:
            assert (await one.request("/x")).body == b"/x"


@live
async def test_a_storm_of_handshakes_is_served_to_the_last_one() -> None:
    async with world() as w:

        async def one() -> bytes:
            async with await w.client() as client_:
                return (await client_.request("/x")).body

        assert await asyncio.gather(*(one() for _ in range(120))) == [b"/x"] * 120
        assert Counter(w.seen.handshakes) == {Handshake.SUCCESS: 120}


@live
async def test_a_handshake_in_pieces_of_one_byte_is_one() -> None:
    async with world() as w:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        async with await RawClient.open(w.port.address.port) as raw:
            while True:
                try:
                    secured.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await raw.send(outgoing.read(), piece=1)
                    incoming.write(await raw.read_some())
            secured.write(b"GET /bits HTTP/1.1\r\nHost: a\r\n\r\n")
            await raw.send(outgoing.read(), piece=1)
            heard = b""
            while b"/bits" not in heard:
                incoming.write(await raw.read_some())
                while incoming.pending or secured.pending():
                    try:
                        heard += secured.read(4096)
                    except ssl.SSLWantReadError:
                        break


def hello(**settings: Any) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    """A client's side of a connection, and the record with its ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = client(**settings).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        secured.do_handshake()
    return secured, incoming, outgoing, outgoing.read()


def records(message: bytes, size: int) -> bytes:
    """A handshake message in records of `size` bytes (RFC 8446 section 5.1)."""
    parts = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("piece", [None, 1], ids=["at once", "in packets of one byte"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@live
async def test_a_hello_in_records_of_one_byte_is_one(version: ssl.TLSVersion, piece: int | None) -> None:
    async with world() as w, await RawClient.open(w.port.address.port) as raw:
        secured, incoming, outgoing, first = hello(maximum_version=version)
        await raw.send(records(first[5:], 1), piece=piece)
        while True:
            incoming.write(await raw.read_some())
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                await raw.send(outgoing.read())
        await raw.send(outgoing.read())
        await w.until(lambda: w.seen.handshakes == [Handshake.SUCCESS])


def claiming(size: int, sent: int) -> bytes:
    """The first `sent` bytes of a ClientHello that says it has `size`."""
    return records((b"\x01" + size.to_bytes(3, "big") + b"\x03\x03").ljust(sent, b"x"), 16 * 1024)


@pytest.mark.parametrize(
    "data",
    [
        claiming(100_000, 20_000),
        claiming((1 << 24) - 1, 6),
        b"\x16\x03\x01\x00\x00" * 1000,
        b"\x15\x03\x01\x00\x02\x01\x00" * 1000,
        b"\x14\x03\x01\x00\x01\x01" * 1000,
        b"\x17\x03\x03\x00\x05hello",
        bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + b"x" * 16,
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["long", "longer", "empty records", "warnings", "change cipher spec", "data", "SSLv2", "a line end", "lower case"],
)
@live
async def test_what_can_be_no_handshake_ends_before_its_time_and_without_a_word_about_us(data: bytes) -> None:
    async with world() as w:
        async with await RawClient.open(w.port.address.port) as odd:
            await odd.send(data)
            with contextlib.suppress(ConnectionError):
                assert len(await odd.read_until_close()) <= 7, "an alert at most"
        await w.until(lambda: w.seen.handshakes == [Handshake.PROTOCOL_ERROR])
        assert not w.port._handshakes.pending


@live
async def test_hellos_that_do_not_end_are_not_kept_and_not_even_read_while_they_wait_for_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as w:
        crowd = [await RawClient.open(w.port.address.port) for _ in range(4)]
        monkeypatch.setattr(handshakes, "STEPS", 0)
        for one in crowd:
            await one.send(claiming(130_000, 130_000))
        await asyncio.sleep(0.1)
        waiting = [stream._incoming.pending for stream in w.port._handshakes.pending]
        assert len(waiting) == 4
        assert max(waiting) <= 32 * 1024
        monkeypatch.setattr(handshakes, "STEPS", 4)
        await w.until(lambda: w.seen.handshakes == [Handshake.PROTOCOL_ERROR] * 4)
        for one in crowd:
            await one.close()


@live
async def test_a_long_chain_is_a_clients_right_where_it_is_asked_for_one() -> None:
    tls = ListenerTls(certificates=(CERTIFICATE,), client_ca=CLIENTS, client_auth=ClientAuth.REQUIRED)
    long = issue(CA, "long", uris=[f"spiffe://{number}/{'x' * 4000}" for number in range(13)], client=True)
    async with world(tls) as w:
        async with await w.client(ssl=client(pair=long)) as one:
            assert (await one.request("/x")).body == b"/x"


@live
async def test_sessions_are_resumed_until_the_certificate_changes() -> None:
    async with world() as w:
        made = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        session = None
        for expected in (Handshake.SUCCESS, Handshake.RESUMED):
            session = await asyncio.to_thread(handshake_in_thread, w.port.address.port, made, session)
            await w.until(lambda: expected in w.seen.handshakes)  # noqa: B023 - asked within the turn
        before = w.store.server(TLS)
        w.values[CERTIFICATE].become(pair_of("next"))
        await w.until(lambda: w.store.server(TLS) is not before)
        await asyncio.to_thread(handshake_in_thread, w.port.address.port, made, session)
        await w.until(lambda: len(w.seen.handshakes) == 3)
        assert w.seen.handshakes[-1] is Handshake.SUCCESS


def handshake_in_thread(port: int, made: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession:
    with socket.create_connection(("127.0.0.1", port), 10.0) as sock:
        with made.wrap_socket(sock, server_hostname="127.0.0.1", session=session) as secured:
            secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            secured.recv(4096)
            assert secured.session is not None
            return secured.session


def pair_of(name: str) -> KeyPair:
    made = issue(CA, name, hosts=["127.0.0.1"])
    return KeyPair(made.pem, made.key_pem)


@live
async def test_a_new_certificate_is_for_new_connections_and_a_bad_one_changes_nothing() -> None:
    async with world() as w, await w.client() as old:
        before = w.store.server(TLS)
        w.values[CERTIFICATE].become(pair_of("next"))
        await w.until(lambda: w.store.server(TLS) is not before)
        async with await w.client() as new:
            assert new.certificate()["subject"] == ((("commonName", "next"),),)
        assert old.certificate()["subject"] == ((("commonName", "local"),),)
        assert (await old.request("/still")).body == b"/still"
        current = w.store.server(TLS)
        w.values[CERTIFICATE].problem = "it has been deleted"
        w.values[CERTIFICATE].become(w.values[CERTIFICATE].value)
        await asyncio.sleep(0.05)
        assert w.store.server(TLS) is current
        assert w.store.problem(TLS) == "it has been deleted"


@live
async def test_a_port_begins_and_ceases_to_speak_tls_without_dropping_a_connection() -> None:
    plain = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE)
    async with world(None) as w, await RawClient.open(w.port.address.port) as clear:
        secured = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE, tls=TLS)
        await w.want(secured)
        w.port.update(secured, w.handler)
        async with await w.client() as secure:
            assert (await secure.request("/s")).body == b"/s"
            assert (await clear.request("/c")).body == b"/c"
            w.port.update(plain, w.handler)
            async with await RawClient.open(w.port.address.port) as again:
                assert (await again.request("/p")).body == b"/p"
            assert (await secure.request("/s")).body == b"/s"


@live
async def test_tls_on_a_plain_port_is_a_rejection_of_its_own() -> None:
    async with world(None) as w:
        rejected: list[Any] = []

        async def handler(connection: ServerConnection) -> None:
            try:
                await connection.next_request()
            except Exception as error:  # noqa: BLE001 - looked at below
                rejected.append(error)

        w.port.update(w.listener, handler)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await w.client()
        assert rejected[0].rejection is Rejection.TLS_ON_PLAIN_PORT


@live
async def test_another_client_ca_is_for_new_connections() -> None:
    tls = ListenerTls(certificates=(CERTIFICATE,), client_ca=CLIENTS, client_auth=ClientAuth.REQUIRED)
    async with world(tls) as w, await w.client(ssl=client(pair=CLIENT)) as old:
        assert (await old.request("/a")).body == b"/a"
        before = w.store.server(tls)
        w.values[CLIENTS].become(CaBundle(OTHER_CA.pem))
        await w.until(lambda: w.store.server(tls) is not before)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with await w.client(ssl=client(pair=CLIENT)) as refused:
                await refused.request("/x")
        await w.until(lambda: Handshake.CERTIFICATE_REFUSED in w.seen.handshakes)
        assert (await old.request("/b")).body == b"/b"


@live
async def test_a_port_that_closes_waits_for_handshakes_and_an_abort_ends_them() -> None:
    async with world() as w, await RawClient.open(w.port.address.port) as silent:
        await w.until(lambda: bool(w.port._handshakes.pending))
        w.port.stop_accepting()
        assert w.port.state is PortState.DRAINING
        waiting = asyncio.ensure_future(w.port.emptied())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        w.port.abort()
        await waiting
        assert w.port.state is PortState.CLOSED
        with pytest.raises((ConnectionError, AssertionError)):
            assert await silent.read_until_close() != b""


@live
async def test_a_client_that_goes_away_without_a_close_notify_is_gone() -> None:
    async with world() as w:
        one = await w.client()
        assert (await one.request("/x")).body == b"/x"
        one.reset()
        await w.until(lambda: not w.port.connections)
        two = await w.client()
        await two.request("/x")
        await two.close()
        await w.until(lambda: not w.port.connections)


@live
async def test_failures_of_one_kind_are_logged_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "outrider")
    async with world() as w:
        for _ in range(5):
            async with await RawClient.open(w.port.address.port) as odd:
                await odd.send(bytes(64))
        await w.until(lambda: len(w.seen.handshakes) == 5)
        assert [record.event for record in caplog.records if getattr(record, "event", "") == "handshake_failed"] == ["handshake_failed"]


@pytest.mark.expects_traceback("a handshake broke")
@live
async def test_a_bug_in_one_handshake_costs_that_client_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(max_connections=2) as w:
        made = ServerConnection.connection_made
        broken = iter([True, False])

        def breaks(connection: ServerConnection, transport: Any) -> None:
            if next(broken, False):
                raise RuntimeError("a bug")
            made(connection, transport)

        monkeypatch.setattr(ServerConnection, "connection_made", breaks)
        one = await w.client()
        with contextlib.suppress(ConnectionError):
            assert await one.read_until_close() == b""
        await one.close()
        async with await w.client() as two:
            assert (await two.request("/x")).body == b"/x"
        await w.until(lambda: not w.port._handshakes.pending)

"""How batches reach a collector over HTTP: what is tried again and when, what is reused, and that every wait ends."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.ports import closed_port
from support.tls import CA, CLIENT, OTHER_CA, server, write

from sidecar.observe.tracing import sender as module
from sidecar.observe.tracing.destination import Destination, read
from sidecar.observe.tracing.sender import Sender

LONG = 60.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Collector:
    """Answers each request with the next of `answers` (the last again and again); None: closes without a word."""

    def __init__(self, *answers: bytes | None, tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[bytes, bytes]] = []
        """(head, body)."""
        self.connections = 0
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        for one in (self._listening, *self._open):
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)
        self._thread.join(LONG)
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with suppress(OSError):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self._open.append(connection)
        with connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection, connection.makefile("rb") as reader:
                while request := self._request(reader):
                    self.requests.append(request)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    if answer is None:
                        return
                    connection.sendall(answer)
                    if not any(kept in answer for kept in (b"Content-Length", b"chunked", b"X-Keep")):
                        return

    @staticmethod
    def _request(reader: Any) -> tuple[bytes, bytes] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reader.readline()
            if not line:
                return None
            head += line
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head, reader.read(int(length[0].split(b":")[1])) if length else b""


@contextmanager
def collector(*answers: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    one = Collector(*answers, tls=tls)
    try:
        yield one
    finally:
        one.close()


def to(port: int, environment: dict[str, str] | None = None, scheme: str = "http") -> Destination:
    return read(f"{scheme}://127.0.0.1:{port}/v1/traces", environment or {}, pytest.fail)


@contextmanager
def sending(destination: Destination) -> Iterator[Sender]:
    one = Sender(destination)
    try:
        yield one
    finally:
        one.end()


def answer(status: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n".encode()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between tries, which are not waited for."""
    asked: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            asked.append(timeout)
            return self.is_set()

    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Impatient))
    return asked


def test_batches_share_a_connection() -> None:
    with collector(OK) as there, sending(to(there.port)) as sender:
        assert [sender.send(b"one"), sender.send(b"two")] == ["", ""]
        assert [body for _, body in there.requests] == [b"one", b"two"]
        assert there.connections == 1
    head = there.requests[0][0]
    assert head.startswith(b"POST /v1/traces HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\ncontent-type: application/x-protobuf\r\n" in head


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        answer("202 Accepted"),
        b"HTTP/1.1 204 No Content\r\nX-Keep: open\r\n\r\n",
    ],
)
def test_answers_of_every_framing_leave_the_connection_fit_for_the_next(first: bytes) -> None:
    with collector(first, OK) as there, sending(to(there.port)) as sender:
        assert [sender.send(b"1"), sender.send(b"2")] == ["", ""]
        assert there.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + b"x" * 100_000,
    ],
)
def test_a_connection_whose_answer_has_no_near_end_is_not_used_again(first: bytes) -> None:
    with collector(first, OK) as there, sending(to(there.port)) as sender:
        assert sender.send(b"1") == ""
        assert sender._connection is None
        assert sender.send(b"2") == ""
        assert there.connections == 2


def test_a_connection_that_the_collector_has_closed_costs_no_wait(waits: list[float]) -> None:
    with collector(OK, None, OK) as there, sending(to(there.port)) as sender:
        assert [sender.send(b"1"), sender.send(b"2")] == ["", ""]
        assert [body for _, body in there.requests] == [b"1", b"2", b"2"]
    assert waits == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_waits_that_double(waits: list[float], status: int) -> None:
    with collector(answer(f"{status} Later"), answer(f"{status} Later"), OK) as there:
        with sending(to(there.port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"})) as sender:
            assert sender.send(b"x") == ""
        assert len(there.requests) == 3
    assert [0.8 <= waits[0] <= 1.2, 1.6 <= waits[1] <= 2.4, len(waits)] == [True, True, 2]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 500])
def test_what_will_not_pass_is_not_tried_again(waits: list[float], status: int) -> None:
    with collector(answer(f"{status} No")) as there, sending(to(there.port)) as sender:
        assert sender.send(b"x") == f"the collector answered {status} No"
        assert len(there.requests) == 1
    assert waits == []


def test_a_collector_that_says_when_is_asked_then(waits: list[float]) -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 5))
    answers = (
        answer("429 X", "Retry-After: 3\r\n"),
        answer("503 X", f"Retry-After: {soon}\r\n"),
        answer("503 X", "Retry-After: -1\r\n"),
        OK,
    )
    with collector(*answers) as there, sending(to(there.port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"})) as sender:
        assert sender.send(b"x") == ""
    assert waits[0] == 3.0
    assert 0 < waits[1] <= 5.0
    assert 3.2 <= waits[2] <= 4.8, "what makes no sense is not listened to"


def test_no_try_begins_after_the_time_of_the_batch_and_there_are_six_at_most(waits: list[float]) -> None:
    with collector(answer("503 Busy", "Retry-After: 11\r\n")) as there, sending(to(there.port)) as sender:
        assert sender.send(b"x") == "the collector answered 503 Busy"
        assert len(there.requests) == 1
    with collector(answer("503 Busy")) as there, sending(to(there.port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "9000"})) as sender:
        assert sender.send(b"x") == "the collector answered 503 Busy"
        assert len(there.requests) == 6
    assert len(waits) == 5


def test_a_refused_connection_is_tried_again_and_named(waits: list[float]) -> None:
    with closed_port() as port, sending(to(port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "9000"})) as sender:
        assert "ConnectionRefusedError" in sender.send(b"x")
    assert len(waits) == 5


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000]
)
def test_what_is_no_answer_is_a_failure_and_bounded(waits: list[float], garbage: bytes) -> None:
    with collector(garbage) as there, sending(to(there.port)) as sender:
        assert sender.send(b"x") != ""
        assert sender._connection is None


@pytest.mark.parametrize("silent_after", ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"])
def test_a_collector_that_says_nothing_or_half_of_it_costs_the_time_of_the_batch_and_no_more(silent_after: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with sending(to(listening.getsockname()[1], {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"})) as sender:
            said: list[str] = []
            thread = threading.Thread(target=lambda: said.append(sender.send(b"x")))
            thread.start()
            connection, _ = listening.accept()
            with connection:
                connection.sendall(silent_after.encode())
                thread.join(LONG)
    assert said == ["the collector has not answered in time"]


def test_close_ends_a_wait_for_an_answer_and_one_between_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        _ends(listening.getsockname()[1], lambda: listening.accept()[0])
    with collector(answer("503 Busy", "Retry-After: 900\r\n")) as there:
        _ends(there.port, lambda: _until(lambda: bool(there.requests)))


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _ends(port: int, begun: Callable[[], Any]) -> None:
    sender = Sender(to(port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "9000"}))
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(sender.send(b"x")))
    thread.start()
    accepted = begun()
    sender.close()
    thread.join(LONG)
    assert not thread.is_alive()
    assert len(said) == 1
    assert said[0] != ""
    assert sender.send(b"y") == "the sender is closed"
    sender.end()
    if accepted is not None:
        accepted.close()


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("none", bytes)])
def test_bodies_are_packed_as_asked_and_say_so(coding: str, unpack: Callable[[bytes], bytes]) -> None:
    with collector(OK) as there, sending(to(there.port, {"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": coding.upper()})) as sender:
        assert sender.send(b"x" * 1000) == ""
    ((head, body),) = there.requests
    assert unpack(body) == b"x" * 1000
    assert (f"\r\ncontent-encoding: {coding}\r\n".encode() in head) == (coding != "none")


def test_a_proxy_is_told_the_whole_url_and_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(OK) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        there = read("http://collector.example/v1/traces", {"http_proxy": "x"}, pytest.fail)
        with sending(there) as sender:
            assert sender.send(b"x") == ""
    head = proxy.requests[0][0]
    assert head.startswith(b"POST http://collector.example/v1/traces HTTP/1.1\r\nhost: collector.example\r\n")
    assert b"\r\nproxy-authorization: Basic bWU6cEBzcw==\r\n" in head
    monkeypatch.setenv("no_proxy", "collector.example")
    assert read("http://collector.example/v1/traces", {"http_proxy": "x"}, pytest.fail).proxy is None


def test_a_proxy_makes_a_tunnel_for_tls_or_says_why_not(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    with collector(answer("407 Who")) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with sending(read("https://collector.example/v1/traces", {"https_proxy": "x"}, pytest.fail)) as sender:
            assert "the proxy answered 407" in sender.send(b"x")
    assert proxy.requests[0][0].startswith(b"CONNECT collector.example:443 HTTP/1.1\r\nhost: collector.example:443\r\n")


def test_a_collector_with_tls_is_verified_by_the_authority_that_is_named_and_shown_the_clients_certificate(tmp_path: Path) -> None:
    files = write(tmp_path, ca=CA, me=CLIENT)
    variables = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": files["ca.crt"],
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": files["me.crt"],
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": files["me.key"],
    }
    with collector(OK, tls=server(clients=CA)) as there, sending(to(there.port, variables, "https")) as sender:
        assert [sender.send(b"1"), sender.send(b"2")] == ["", ""]
        assert there.connections == 1


def test_a_collector_whose_certificate_nobody_vouches_for_gets_nothing(tmp_path: Path, waits: list[float]) -> None:
    variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": write(tmp_path, ca=OTHER_CA)["ca.crt"]}
    for trusted in (variables, {}):
        with collector(OK, tls=server()) as there, sending(to(there.port, trusted, "https")) as sender:
            assert "CERTIFICATE_VERIFY_FAILED" in sender.send(b"x")
            assert there.requests == []


def test_a_certificate_that_is_rotated_is_used_for_the_next_connection(tmp_path: Path, waits: list[float]) -> None:
    write(tmp_path, ca=OTHER_CA)
    with collector(OK, tls=server()) as there:
        destination = to(there.port, {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.crt")}, "https")
        with sending(destination) as sender:
            assert sender.send(b"x") != ""
            write(tmp_path, ca=CA)
            assert sender.send(b"x") == ""


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"},
        {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/nowhere"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0aX"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "content-length=7"},
    ],
)
def test_variables_that_nothing_can_be_sent_with_are_refused_at_once(variables: dict[str, str]) -> None:
    with pytest.raises((ValueError, OSError)):
        to(4318, variables, "https")


@pytest.mark.parametrize("url", ["collector:4318", "ftp://a/", "http://", "http://a b/", "http://a/\u00e9"])
def test_what_is_no_url_of_a_collector_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the URL"):
        read(url, {}, pytest.fail)


def test_the_environment_says_where_and_how_and_the_traces_own_variable_wins() -> None:
    said: list[str] = []
    found = read(
        None,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://all.example/base/",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://me:secret@[::1]:1234/spans?x=1",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=all",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "Tenant=t%2C1, user-agent=mine",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.5",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "",
        },
        said.append,
    )
    assert (found.host, found.port, found.tls, found.seconds, found.coding, said) == ("::1", 1234, False, 0.5, "gzip", [])
    assert found.head.split(b"\r\n") == [
        b"POST /spans?x=1 HTTP/1.1",
        b"host: [::1]:1234",
        b"content-type: application/x-protobuf",
        b"user-agent: mine",
        b"authorization: Basic bWU6c2VjcmV0",
        b"tenant: t,1",
        b"content-encoding: gzip",
        b"",
    ]
    base = read(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://all.example/base/"}, said.append)
    assert (base.host, base.port, base.tls, base.head.split(b" ")[1]) == ("all.example", 443, True, b"/base/v1/traces")
    assert (read(None, {}, said.append).host, read(None, {}, said.append).port) == ("localhost", 4318)


def test_variables_that_make_no_sense_are_warned_about() -> None:
    said: list[str] = []
    found = read("http://a/", {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon", "OTEL_EXPORTER_OTLP_COMPRESSION": "much"}, said.append)
    assert (found.seconds, found.coding) == (10.0, "none")
    assert [("soon" in one, "much" in one) for one in sorted(said)] == [(False, True), (True, False)]

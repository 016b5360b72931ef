"""`POST /drain` without the admin surface: exactly what `outrider drain` sends, and nothing that a web page could."""

from __future__ import annotations

import pytest

from sidecar.admin.doorstep import answer

LINE = b"POST /drain HTTP/1.1\r\n"
AS_SENT = (
    LINE + b"Host: 127.0.0.1:15020\r\nAccept-Encoding: identity\r\nContent-Length: 0\r\n"
    b"Accept: application/json\r\nConnection: close\r\nUser-Agent: outrider-cli\r\n\r\n"
)


class Drain:
    """Counts how often it is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> tuple[bool, int]:
        self.asked += 1
        return False, 3


def test_the_commands_request_begins_a_drain_and_is_told_how_far_it_is() -> None:
    drain = Drain()
    said = answer(AS_SENT, drain)
    assert said is not None
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert body == b'{"drained": false, "inFlight": 3}'
    assert drain.asked == 1


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:15020", b"[::1]:15020", b"127.0.0.9"])
def test_every_loopback_name_will_do(host: bytes) -> None:
    assert answer(LINE + b"Host: " + host + b"\r\n\r\n", Drain()) is not None


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        AS_SENT[:-1],
        AS_SENT + b"x",
        AS_SENT.replace(b"POST", b"GET"),
        AS_SENT.replace(b"/drain", b"/drain?now"),
        AS_SENT.replace(b"/drain", b"/quitquitquit"),
        AS_SENT.replace(b"HTTP/1.1", b"HTTP/1.0"),
        AS_SENT.replace(b"127.0.0.1:15020", b"evil.example"),
        AS_SENT.replace(b"127.0.0.1:15020", b"10.0.0.1"),
        AS_SENT.replace(b"Length: 0", b"Length: 5"),
        AS_SENT.replace(b"Accept:", b"Origin: http://evil.example\r\nAccept:"),
        AS_SENT.replace(b"Accept:", b"Transfer-Encoding: chunked\r\nAccept:"),
        AS_SENT.replace(b"Accept:", b"Host: localhost\r\nAccept:"),
        AS_SENT.replace(b"Accept:", b"Sec-Fetch-Site: cross-site\r\nAccept:"),
        AS_SENT.replace(b"Host: 127.0.0.1:15020\r\n", b""),
        AS_SENT.replace(b"Accept:", b"no colon\r\nAccept:"),
    ],
)
def test_anything_else_is_for_the_surface_and_its_guard(request_bytes: bytes) -> None:
    drain = Drain()
    assert answer(request_bytes, drain) is None
    assert drain.asked == 0

"""Two small upstreams for the quick start, standard library only: `orders` on 9101 and `billing` on 9102.

python examples/upstreams.py [ORDERS_PORT BILLING_PORT]

/anything   200, who answered and what arrived, as JSON
/flaky      503 the first time that an x-request-id is seen, 200 the second
/slow       200 after 0.8 s (`/slow?seconds=2` for another delay)
/echo       200, the request's body
/stream     200, five server-sent events, 0.2 s apart
/socket     a WebSocket that echoes what it is sent
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LONGEST_DELAY = 30.0


class Upstream(ThreadingHTTPServer):
    """One named upstream on a loopback port."""

    daemon_threads = True

    def __init__(self, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name = name
        self.failed_once: set[str | None] = set()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name=self.name, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """The endpoints that the module's docstring lists."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Upstream

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        endpoints = {"/flaky": self.flaky, "/slow": self.slow, "/stream": self.stream, "/socket": self.socket}
        path = urlsplit(self.path).path
        if path == "/echo":
            self.answer(200, body, "application/octet-stream")
        elif endpoint := endpoints.get(path):
            endpoint()
        else:
            self.tell("here you are")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any  # noqa: N815  # the base class's names

    def flaky(self) -> None:
        request_id = self.headers.get("x-request-id")
        if request_id in self.server.failed_once:
            self.server.failed_once.discard(request_id)
            self.tell("the second try came through")
        else:
            self.server.failed_once.add(request_id)
            self.tell("not now", status=503)

    def slow(self) -> None:
        wanted = parse_qs(urlsplit(self.path).query).get("seconds", ["0.8"])[0]
        time.sleep(min(float(wanted), LONGEST_DELAY))
        self.tell("slow, but here")

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(1, 6):
            event = f"data: {self.server.name} {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.2)
        self.wfile.write(b"0\r\n\r\n")

    def socket(self) -> None:
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())  # noqa: S324  # RFC 6455 4.2.2 asks for it
        self.end_headers()
        self.close_connection = True
        while self.echo_frame():
            pass

    def echo_frame(self) -> bool:
        """Send one short frame back unmasked; False after a close frame or the end of the stream."""
        start = self.rfile.read(2)
        if len(start) < 2 or start[1] & 0x7F > 125:  # longer frames are not for an example
            return False
        size = start[1] & 0x7F
        mask, data = self.rfile.read(4), self.rfile.read(size)
        self.wfile.write(bytes([start[0], size]) + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)))
        return start[0] & 0x0F != 8

    def tell(self, message: str, status: int = 200) -> None:
        about: dict[str, Any] = {"upstream": self.server.name, "message": message, "method": self.command, "path": self.path}
        about["headers"] = dict(self.headers.items())
        self.answer(status, json.dumps(about, indent=2).encode() + b"\n", "application/json")

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the peer has gone: that is its right
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing: the sidecar has the access log."""


def main() -> None:
    ports = [int(port) for port in sys.argv[1:3]] or [9101, 9102]
    for name, port in zip(("orders", "billing"), ports, strict=True):
        Upstream(name, port).start()
        print(f"{name} listens on http://127.0.0.1:{port}")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()

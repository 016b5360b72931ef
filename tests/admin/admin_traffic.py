"""A process of its own: an upstream, and a client that sends requests through the sidecar until its input ends.

Prints the upstream's port, then reads the port of the sidecar's listener.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream(BaseHTTPRequestHandler):
    """Answers at once, but for what is slow or breaks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(0.5)
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The sidecar hangs up on what is slow."""


def main() -> None:
    server = Server(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    port = int(sys.stdin.readline())
    threading.Thread(target=send, args=(port,), daemon=True).start()
    sys.stdin.read()


def send(port: int) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for path in ("/", "/orders/7", "/", "/broken", "/", "/slow"):
            connection.request("GET", path, headers={"Host": "shop.example"})
            connection.getresponse().read()
            time.sleep(0.02)
        connection.close()


if __name__ == "__main__":
    main()

"""The example application of manifests/example and of the tutorial: python shop.py orders | billing | load | ask PATH.

orders   GET /orders/N asks billing for a price. `?ask=flaky` and `?ask=slow` make billing fail once, or take 1.5 s.
         What billing (or the sidecar on the way) answers is passed on, so that its explanation can be read.
billing  GET /prices/N, /flaky/N (503 the first time that an x-request-id is seen), /slow/N
load     asks orders without end, and says every ten seconds how many requests there were and how many have failed,
         counted from the first that went well
ask      one request to orders; prints the status and the answer

The calls of `orders` go through its sidecar because HTTP_PROXY is set, which urllib honours.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = 8000
PASSED_ON = ("traceparent", "tracestate", "baggage", "x-request-id")
"""Headers that keep one request together over several services."""
PAUSE = 0.1
failed_once: set[str | None] = set()

Answer = tuple[int, str, bytes]


def told(status: int, **facts: object) -> Answer:
    return status, "application/json", json.dumps({**facts, "pod": socket.gethostname()}).encode() + b"\n"


def reached(url: str, headers: dict[str, str]) -> Answer:
    """Raises OSError where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def fetched(url: str, headers: dict[str, str]) -> Answer:
    try:
        return reached(url, headers)
    except OSError as error:
        return told(502, error=str(error))


def orders(handler: BaseHTTPRequestHandler) -> Answer:
    place, _, number = urlsplit(handler.path).path.strip("/").partition("/")
    if place != "orders" or not number.isdigit():
        return told(404, error="write /orders/NUMBER")
    asked = parse_qs(urlsplit(handler.path).query).get("ask", ["prices"])[0]
    headers = {name: handler.headers[name] for name in PASSED_ON if name in handler.headers}
    status, kind, body = fetched(f"http://billing/{asked}/{number}", headers)
    return (status, kind, body) if status != 200 else told(200, order=int(number), price=json.loads(body)["price"])


def billing(handler: BaseHTTPRequestHandler) -> Answer:
    place, _, number = handler.path.strip("/").partition("/")
    if not number.isdigit():
        return told(404, error="write /prices/NUMBER")
    if place == "slow":
        time.sleep(1.5)
    elif place == "flaky":
        request = handler.headers["x-request-id"]
        if request not in failed_once:
            failed_once.add(request)
            return told(503, error="not now")
    return told(200, price=10 * int(number))


def serve(answer: Callable[[BaseHTTPRequestHandler], Answer]) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            status, kind, body = told(200) if self.path == "/healthz" else answer(self)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            """Say nothing: the sidecar has the access log."""

    ThreadingHTTPServer(("", PORT), Handler).serve_forever()


def load() -> None:
    while fetched("http://orders/orders/0", {})[0] != 200:
        time.sleep(1)
    sent = failed = 0
    report = time.monotonic() + 10
    while True:
        status, _, _ = fetched(f"http://orders/orders/{sent % 100}", {})
        sent, failed = sent + 1, failed + (status != 200)
        if time.monotonic() >= report:
            report += 10
            print(json.dumps({"sent": sent, "failed": failed}), flush=True)
        time.sleep(PAUSE)


def ask(path: str) -> None:
    for _ in range(100):  # a Service that is new takes a moment to lead somewhere
        try:
            status, _, body = reached(f"http://orders{path}", {})
        except OSError:
            time.sleep(PAUSE)
        else:
            print(status, body.decode().rstrip())
            return
    sys.exit("nobody answers at http://orders")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    role = sys.argv[1]
    if role == "load":
        load()
    elif role == "ask":
        ask(sys.argv[2])
    else:
        serve({"orders": orders, "billing": billing}[role])

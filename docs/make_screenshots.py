"""Takes the pictures of the admin page in docs/images, from a real sidecar with real traffic.

    .venv/bin/python docs/make_screenshots.py [--seconds 320]

Needs Chromium and its driver (`apt-get install chromium chromium-driver`). The longer it runs, the more the plots show:
they look back on five minutes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import pi, sin
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import Browser  # noqa: E402

IMAGES = ROOT / "docs" / "images"
DOCUMENT = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - {{name: inbound, port: {ports[0]}, mode: Reverse}}
  - {{name: outbound, port: {ports[1]}, bind: 127.0.0.1, mode: Forward}}
upstreams:
  - {{name: shop, targets: [{{url: "http://127.0.0.1:{shop}"}}]}}
  - name: billing
    targets: [{{url: "http://127.0.0.1:{billing[0]}"}}, {{url: "http://127.0.0.1:{billing[1]}"}}]
  - {{name: stock, targets: [{{url: "http://127.0.0.1:{stock}"}}]}}
routes:
  - {{name: shop, listener: inbound, backendRefs: [{{name: shop}}]}}
  - name: checkout
    listener: inbound
    matches: [{{path: {{value: /checkout}}, method: POST}}]
    backendRefs: [{{name: shop}}]
    timeouts: {{request: 2s}}
  - name: billing-read
    listener: outbound
    hostnames: [billing.shop.svc]
    matches: [{{path: {{value: /v1/invoices}}, method: GET}}]
    backendRefs: [{{name: billing}}]
    timeouts: {{responseHeader: 400ms}}
    retry: {{attempts: 2, codes: [503], backoff: 25ms}}
  - name: billing-write
    listener: outbound
    hostnames: [billing.shop.svc]
    backendRefs: [{{name: billing}}]
    timeouts: {{responseHeader: 400ms}}
  - name: stock
    listener: outbound
    hostnames: [stock.shop.svc]
    backendRefs: [{{name: stock}}]
"""


class Service(ThreadingHTTPServer):
    """An upstream that takes about `seconds`, sometimes much longer, and sometimes answers 503."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, seconds: float, *, slow: float = 0.0, failing: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.seconds, self.slow, self.failing = seconds, slow, failing
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fail_for(self, seconds: float) -> None:
        """Have a bad time."""
        self.failing = 0.2
        time.sleep(seconds)
        self.failing = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away: a time-out is one of the things to see."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Answer(BaseHTTPRequestHandler):
    """A short answer to everything."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(0.8 if random.random() < self.server.slow else random.lognormvariate(0, 0.5) * self.server.seconds)
        self.send_response(503 if random.random() < self.server.failing else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = answer  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def load(port: int, host: str, requests: list[tuple[str, str]], rate: float, until: float) -> None:
    """About `rate` requests a second, in waves, until a moment of the monotonic clock."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while (now := time.monotonic()) < until:
        method, path = random.choice(requests)
        try:
            connection.request(method, path, headers={"Host": host}, body=b"{}" if method == "POST" else None)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        time.sleep(random.expovariate(rate * (1 + 0.5 * sin(now * 2 * pi / 97 + rate))))


def run_sidecar(folder: Path, seconds: float) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """A sidecar on the usual ports, with four upstreams, one of which has a bad half minute; and its `ready` line."""
    shop, stock = Service(0.004), Service(0.012)
    billing = Service(0.03, slow=0.06, failing=0.015), Service(0.022, failing=0.005)
    threading.Timer(max(seconds - 110, 5), stock.fail_for, (25,)).start()
    document = folder / "sidecar.yaml"
    words = {"ports": (15001, 15002), "shop": shop.port, "stock": stock.port, "billing": [one.port for one in billing]}
    document.write_text(DOCUMENT.format(**words), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "sidecar",
        "run",
        f"--config={document}",
        "--status-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    ]
    log = (folder / "log").open("wb")
    process = subprocess.Popen([*command, "--log-format=json", f"--state-dir={folder / 'state'}"], stdout=log, stderr=log, cwd=ROOT)
    for _ in range(200):
        for line in (folder / "log").read_text().splitlines():
            if '"event": "ready"' in line:
                return process, json.loads(line)
        time.sleep(0.05)
    process.kill()
    raise SystemExit((folder / "log").read_text())


def take(browser: Browser, url: str, seconds: float) -> None:
    """The pictures, after so many seconds of looking."""
    browser.open(url)
    time.sleep(seconds)
    IMAGES.mkdir(exist_ok=True)
    for name, scheme, width, height in (
        ("admin-page", "light", 1440, 1320),
        ("admin-page-dark", "dark", 1440, 1320),
    ):
        browser.emulate(scheme=scheme, width=width, height=height)
        browser.command("Emulation.setScrollbarsHidden", hidden=True)
        time.sleep(3)
        (IMAGES / f"{name}.png").write_bytes(browser.screenshot())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=320.0, help="how long traffic runs before the first picture (default 320)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="outrider-pictures-") as folder:
        process, ready = run_sidecar(Path(folder), seconds)
        try:
            ports = {name: int(address.rpartition(":")[2]) for name, address in ready["listeners"].items()}
            until = time.monotonic() + seconds + 40
            browse = [("GET", "/"), ("GET", "/products/17"), ("GET", "/products/23"), ("GET", "/cart")]
            for _ in range(4):
                threading.Thread(target=load, args=(ports["inbound"], "shop.example", browse, 12, until), daemon=True).start()
            for host, requests, rate in (
                ("shop.example", [("POST", "/checkout")], 4),
                ("billing.shop.svc", [("GET", "/v1/invoices/1041"), ("GET", "/v1/invoices/1042")], 9),
                ("billing.shop.svc", [("POST", "/v1/payments")], 2),
                ("stock.shop.svc", [("GET", "/items/17"), ("GET", "/items/23")], 14),
                ("mail.shop.svc", [("GET", "/outbox")], 0.05),
            ):
                port = ports["inbound" if host == "shop.example" else "outbound"]
                threading.Thread(target=load, args=(port, host, requests, rate, until), daemon=True).start()
            with Browser() as browser:
                take(browser, f"http://{ready['admin']}/", seconds)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()

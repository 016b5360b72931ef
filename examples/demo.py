"""What `make demo` shows. It checks everything that it says; exit 1 when something did not happen.

On a terminal it stays until Ctrl-C, so that you can try things; otherwise it stops by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upstreams import Upstream

QUICKSTART = Path(__file__).with_name("quickstart.yaml")
PATIENCE = 15.0
"""Seconds after which something that should have happened has not."""
COLOURS = sys.stdout.isatty()
SIDECAR = [sys.executable, "-m", "sidecar"]


class DidNotHappen(Exception):
    """What the demo wanted to show is not so."""


# Words on the screen


def paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def say(text: str = "") -> None:
    print(text, flush=True)


def title(number: int, text: str) -> None:
    say(f"\n{paint(f'{number}  {text}', '1;36')}")


def command(text: str) -> None:
    say(f"   {paint('$ ' + text, '2')}")


def shown(text: str) -> None:
    say(f"   {paint('ok', '32')}  {text}")


def quote(text: str) -> None:
    for line in text.rstrip().splitlines():
        say(f"   {paint('|', '2')} {line}")


def expect(so: object, what: str) -> None:
    if not so:
        raise DidNotHappen(what)


# The sidecar


class Sidecar:
    """`outrider run` on a copy of the quick start."""

    def __init__(self, folder: Path, document: Path) -> None:
        self.document = document
        self.log = folder / "outrider.log"
        self.started = time.monotonic()
        flags = [f"--config={document}", f"--state-dir={folder / 'state'}", "--log-format=json"]
        flags += [f"--status-address=127.0.0.1:{free_port(15021)}", f"--admin-address=127.0.0.1:{free_port(15020)}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*SIDECAR, "run", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th log line with this event."""
        deadline = time.monotonic() + PATIENCE
        while len(found := [line for line in self.lines() if line.get("event") == event]) < count:
            expect(self.process.poll() is None, f"the sidecar goes on running (exit code {self.process.poll()})")
            expect(time.monotonic() < deadline, f"a log line {event!r}")
            time.sleep(0.02)
        return found[count - 1]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port(wanted: int) -> int:
    """`wanted` when nobody has it, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outrider(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SIDECAR, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


class Answer:
    """A whole answer, and how long it took (seconds)."""

    def __init__(self, port: int, target: str) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", target)
            response = connection.getresponse()
            self.status = response.status
            self.headers = response.headers
            self.body = response.read()
        self.seconds = time.monotonic() - began


def metric(port: int, name: str, labels: str) -> float:
    """The sum of a metric's samples whose labels contain `labels`."""
    text = Answer(port, "/metrics").body.decode()
    found = [line for line in text.splitlines() if line.startswith(name) and labels in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


# What it shows


class Demo:
    """The demo's steps, in order; each prints what it has checked."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        ready = sidecar.wait_for("ready")
        self.start_seconds = time.monotonic() - sidecar.started
        self.inbound, self.outbound = (int(ready["listeners"][name].rpartition(":")[2]) for name in ("inbound", "outbound"))
        self.status = int(ready["status"].rpartition(":")[2])
        self.admin = f"http://{ready['admin']}"

    def route(self) -> None:
        command(f"curl http://127.0.0.1:{self.inbound}/orders/7")
        answer = Answer(self.inbound, "/orders/7")
        expect(answer.status == 200, f"200 from orders, not {answer.status}")
        expect(json.loads(answer.body)["upstream"] == "orders", "the upstream `orders` answered")
        expect("1.1 outrider" in (answer.headers["Via"] or ""), "a Via field of the sidecar")
        shown(f"200 by the upstream {paint('orders', '1')} in {answer.seconds * 1000:.0f} ms, Via: {answer.headers['Via']}")

    def retry(self) -> None:
        command(f"curl -x http://127.0.0.1:{self.outbound} http://billing.shop.svc/flaky")
        answer = Answer(self.outbound, "http://billing.shop.svc/flaky")
        retries = metric(self.status, "outrider_retries_total", 'upstream="billing"')
        expect(answer.status == 200, f"200 in the end, not {answer.status}")
        expect(retries == 1, f"one retry counted, not {retries:g}")
        shown(f"200: {paint('billing', '1')} said 503, the sidecar asked again, the caller never noticed")
        quote('outrider_retries_total{route="billing",upstream="billing",reason="status_503"} 1')

    def timeout(self) -> None:
        command(f"curl -i -x http://127.0.0.1:{self.outbound} http://billing.shop.svc/slow")
        answer = Answer(self.outbound, "http://billing.shop.svc/slow")
        expect(answer.status == 504, f"504, not {answer.status}")
        problem = json.loads(answer.body)
        expect(problem.get("clock") == "responseHeader", "the clock that fired is named")
        expect("clock=responseHeader" in (answer.headers["Proxy-Status"] or ""), "Proxy-Status names the clock")
        shown(f"504 after {answer.seconds:.1f} s, and it says which clock fired")
        quote(f"Proxy-Status: {answer.headers['Proxy-Status']}\n{json.dumps(problem, indent=2)}")

    def why(self) -> None:
        command("outrider why --last")
        told = outrider("why", "--last", "--admin", self.admin)
        expect(told.returncode == 0, f"`outrider why` knows it: {told.stderr}")
        expect("responseHeader" in told.stdout, "the clock that fired is named")
        quote(told.stdout)

    def edit(self) -> None:
        document = self.sidecar.document
        command(f"sed -i s/500ms/3s/ {document}")
        before = document.read_text()
        expect("responseHeader: 500ms" in before, "a clock of 500ms in the document")
        began = time.monotonic()
        applied = sum(line.get("event") == "config_applied" for line in self.sidecar.lines())
        replace(document, before.replace("responseHeader: 500ms", "responseHeader: 3s"))
        self.sidecar.wait_for("config_applied", applied + 1)
        shown(f"the edit was active after {(time.monotonic() - began) * 1000:.0f} ms, no connection was dropped")
        answer = Answer(self.outbound, "http://billing.shop.svc/slow")
        expect(answer.status == 200, f"200 with the longer clock, not {answer.status}")
        shown(f"the same request: 200 after {answer.seconds:.1f} s")

    def mistake(self) -> None:
        document = self.sidecar.document
        good = document.read_text()
        command(f"sed -i s/responseHeader/responseHeaders/ {document}")
        replace(document, good.replace("responseHeader", "responseHeaders"))
        self.sidecar.wait_for("config_rejected")
        checked = outrider("validate", str(document))
        expect(checked.returncode == 1, f"`outrider validate` exits with 1, not {checked.returncode}")
        expect("did you mean responseHeader?" in checked.stdout + checked.stderr, "the right name is suggested")
        answer = Answer(self.inbound, "/orders/7")
        expect(answer.status == 200, "the last good document still serves")
        shown("refused, the last good document still serves; `outrider validate` says what and where")
        quote((checked.stdout + checked.stderr).replace(f"{document.parent}/", ""))
        replace(document, good)

    def explain(self) -> None:
        url = "http://billing.shop.svc/reports/2026"
        command(f"outrider explain GET {url} --listener outbound")
        told = outrider("explain", "GET", url, "--listener", "outbound", "--admin", self.admin)
        expect(told.returncode == 0, f"`outrider explain` finds a route: {told.stderr}")
        expect("billing-reports" in told.stdout, "the route `billing-reports` is named")
        story, _, limits = told.stdout.partition("\nLimits ")
        expect(limits, "the limits are listed, too")
        quote(f"{story}\n... and {limits.count(chr(10))} lines of limits, each with the place that set it")

    def overview(self) -> None:
        command("outrider status")
        told = outrider("status", "--admin", self.admin)
        expect(told.returncode == 0, f"`outrider status` says ready: {told.stdout}{told.stderr}")
        quote(told.stdout)

    def urls(self) -> None:
        places = {
            "application, through the sidecar": f"http://127.0.0.1:{self.inbound}/",
            "the application's HTTP_PROXY": f"http://127.0.0.1:{self.outbound}",
            "admin page": f"{self.admin}/",
            "metrics": f"http://127.0.0.1:{self.status}/metrics",
            "the document (edit it!)": str(self.sidecar.document),
            "log": str(self.sidecar.log),
        }
        say(f"\n{paint('Where things are', '1;36')}")
        for name, place in places.items():
            say(f"   {name:<34} {paint(place, '4' if place.startswith('http') else '0')}")
        for url in (self.admin, f"http://127.0.0.1:{self.status}"):
            host, port = url.removeprefix("http://").rsplit(":", 1)
            path = "/" if url == self.admin else "/metrics"
            expect(Answer(int(port), path).status == 200, f"{host}:{port}{path} answers")

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("A request finds its route", self.route),
            ("A retry saves a request", self.retry),
            ("A time-out names its clock", self.timeout),
            ("Why did that request fail?", self.why),
            ("An edit of the document takes effect, live", self.edit),
            ("A mistake in the document changes nothing", self.mistake),
            ("Why would a request go where?", self.explain),
            ("How is it doing?", self.overview),
        ]


def replace(document: Path, text: str) -> None:
    """Write in one step, as editors and Kubernetes do."""
    new = document.with_suffix(".new")
    new.write_text(text)
    new.replace(document)


@contextlib.contextmanager
def running() -> Iterator[Sidecar]:
    """Both upstreams and the sidecar; ports that are taken are replaced in the copy of the document."""
    folder = Path(tempfile.mkdtemp(prefix="outrider-demo-"))
    text = QUICKSTART.read_text()
    ports = {wanted: free_port(wanted) for wanted in (9101, 9102, 15001, 15002)}
    text = re.sub(r"\b(9101|9102|15001|15002)\b", lambda found: str(ports[int(found[0])]), text)
    document = folder / "sidecar.yaml"
    document.write_text(text)
    upstreams = [Upstream("orders", ports[9101]), Upstream("billing", ports[9102])]
    for upstream in upstreams:
        upstream.start()
    sidecar = Sidecar(folder, document)
    try:
        yield sidecar
    except DidNotHappen:
        say(f"\n{paint('The end of the log of the sidecar:', '31')}\n" + "\n".join(sidecar.log.read_text().splitlines()[-20:]))
        raise
    finally:
        code = sidecar.stop()
        for upstream in upstreams:
            upstream.shutdown()
            upstream.server_close()
        shutil.rmtree(folder, ignore_errors=True)
    expect(code == 0, f"the sidecar drains and exits with 0, not {code}")


def show() -> None:
    say(paint("Outrider: a sidecar for HTTP. Two upstreams, one document, eight things that it does.", "1"))
    with running() as sidecar:
        demo = Demo(sidecar)
        say(f"   {paint('ok', '32')}  ready {demo.start_seconds:.2f} s after its start")
        for number, (text, step) in enumerate(demo.steps(), 1):
            title(number, text)
            step()
        demo.urls()
        if sys.stdout.isatty():
            say(f"\n{paint('Everything runs until you press Ctrl-C.', '1')}")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    say(f"\n{paint('Done', '32')}: all of it happened, and the sidecar drained and stopped.")
    say(
        "   Next, in README.md: the document in a ConfigMap (--configmap), traces (OTEL_EXPORTER_OTLP_ENDPOINT), dashboards, injection into pods."
    )


def main() -> int:
    try:
        show()
    except DidNotHappen as error:
        print(f"\n{paint('This did not happen', '31')}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

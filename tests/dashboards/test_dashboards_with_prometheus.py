"""Every query of every dashboard and rule against a real Prometheus that scrapes a real sidecar in trouble.

The sidecar gets answers, retries, time-outs, refusals, a full pool, broken messages and new documents, for as long as
it takes Prometheus to scrape it a few times. What has no data then is listed, with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import alert_cases
import pytest
import yaml
from generated_files import DASHBOARDS, RULES, Query, board_queries, dashboard, fill, panels, rule_queries
from support import Connection, RawClient, ScriptedUpstream, Sidecar, response
from support.certificates import authority, issue
from support.ports import closed_port, free_port
from support.programs import need_program

from charts.source import slo
from charts.source.__main__ import GROUPS
from charts.source.rules import Alert

pytestmark = pytest.mark.timeout(300)  # the first test waits for Prometheus, on a busy machine for long
POD = alert_cases.PODS["orders"]
LABELS = {"namespace": "shop", "pod": POD}
DEADLINE = 60.0
NOT_HERE = {
    "outrider_kube_requests_total": "this sidecar reads a file",
    "outrider_kube_watches": "this sidecar reads a file",
    "outrider_config_events_total": "this sidecar reads a file",
    'outrider_requests_total{reason="proxy_internal_error"}': "begins with a bug of ours",
}
"""Series (as queries write them) that no load brings about here."""
ONLY_IN_CGROUPS = {
    "outrider_memory_limit_bytes": "memory.max",
    "outrider_cpu_throttled_seconds_total": "cpu.stat",
    'outrider_resource_usage_ratio{resource="memory"}': "memory.max",
}
"""Series that a machine may not have that runs tests outside of containers. They are checked where they are."""


JUDGED = {"outlierDetection": {}, "circuitBreaker": {"consecutiveFailures": 10**6}, "healthCheck": {"unhealthyThreshold": 10**6}}
"""Everything that judges health, and changes nothing."""


async def play(connection: Connection) -> None:
    """The upstream: the path says what it does."""
    answers = 0
    while True:
        request = await connection.read_request()
        answers += 1
        if b"/slow" in request.start:
            await asyncio.sleep(0.4)
        if b"/cut" in request.start:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
            return
        await connection.send(response("503 No" if b"/retried" in request.start else "200 OK", b"x" * 100))


def document(port: int, closed: int, folder: Path, **more: Any) -> dict[str, Any]:
    target = [{"url": f"http://127.0.0.1:{port}"}]
    retry = {"attempts": 2, "codes": [503], "backoff": "1ms", "maxBackoff": "1ms"}

    def route(path: str, upstream: str, **settings: Any) -> dict[str, Any]:
        return {
            "name": path,
            "matches": [{"path": {"type": "PathPrefix", "value": f"/{path}"}}],
            "backendRefs": [{"name": upstream}],
            **settings,
        }

    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [
            {"name": "inbound", "port": 0, "bind": "127.0.0.1", "mode": "Reverse"},
            {"name": "secure", "port": 0, "bind": "127.0.0.1", "tls": {"certFile": f"{folder}/tls.crt", "keyFile": f"{folder}/tls.key"}},
        ],
        "upstreams": [
            {"name": "app", "targets": target, "retryBudget": {"percent": 1, "minRetryRate": {"count": 1}}},
            {"name": "narrow", "targets": target, "connectionPool": {"maxConnections": 1, "maxPendingRequests": 1}},
            {"name": "gone", "targets": [{"url": f"http://127.0.0.1:{closed}"}], **JUDGED},
        ],
        "routes": [
            route("ok", "app", filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "app"}}}]),
            route("retried", "app", retry=retry),
            route("cut", "app"),
            route("slow", "narrow", timeouts={"responseHeader": "200ms", "queue": "2s"}),
            route("gone", "gone"),
        ],
        # Nobody listens there: spans are made, and with them exemplars, and then lost.
        "telemetry": {
            "accessLog": {"format": "None"},
            "tracing": {"exporter": "OTLP", "endpoint": f"http://127.0.0.1:{closed}", "sampler": "AlwaysOn"},
        },
        **more,
    }


async def load(port: int, until: float) -> None:
    """All kinds of requests, one after another, until the time has come."""
    while time.monotonic() < until:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async with await RawClient.open(port) as client:
                for path in ("/ok", "/retried", "/gone", "/nowhere", "/slow"):
                    await client.request(path, method="POST" if path == "/ok" else "GET", body=b"body" if path == "/ok" else b"")
                await client.send(b"GET /cut HTTP/1.1\r\nHost: test\r\n\r\n")
                await client.read_until_close()
        async with await RawClient.open(port) as client:
            await client.send(b"GET /ok HTTP/1.1\nHost: test\n\n")
            await client.read_until_close()
        await asyncio.sleep(0.02)


async def handshakes(port: int, until: float) -> None:
    """Clients that come with TLS, one after another, until the time has come."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while time.monotonic() < until:
        async with await RawClient.open(port, ssl=context) as client:
            await client.request("/ok")
        await asyncio.sleep(0.2)


class Prometheus:
    """A real one, on a port and a folder of its own; scrapes once a second."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        scrape = {"job_name": "outrider", "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": LABELS}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.log = folder / "log"
        command = [need_program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn", "--enable-feature=exemplar-storage"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def results(self, query: str) -> list[dict[str, Any]]:
        try:
            return list(self.ask("/api/v1/query", query=query)["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def wait_for(self, what: str, true: Any) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            with contextlib.suppress(OSError):  # it does not listen yet, or says 503
                if true():
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"{what} did not happen within {DEADLINE:.0f} s\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def scraped(prometheus: Prometheus, times: int) -> bool:
    found = prometheus.ask("/api/v1/query", query=f"count_over_time(outrider_build_info[{int(DEADLINE)}s])")["result"]
    return bool(found) and int(found[0]["value"][1]) >= times


class Answers:
    """What Prometheus said while there was trouble: results by query, rules, its own complaints."""

    def __init__(self) -> None:
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.rules: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.exemplars: dict[str, list[dict[str, Any]]] = {}

    def collect(self, prometheus: Prometheus) -> None:
        queries = [query.text for query in EVERY]
        self.results = {text: prometheus.results(text) for text in [*queries, *NOT_HERE, *ONLY_IN_CGROUPS]}
        self.rules = [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]]
        self.targets = prometheus.ask("/api/v1/targets")["activeTargets"]
        now = time.time()
        for text in {fill(target["expr"]) for target in with_exemplars()}:
            self.exemplars[text] = prometheus.ask("/api/v1/query_exemplars", query=text, start=str(now - DEADLINE), end=str(now + 1))


def with_exemplars() -> list[dict[str, Any]]:
    """The targets of panels that show traces."""
    return [target for path in DASHBOARDS for panel in panels(dashboard(path)) for target in panel["targets"] if target.get("exemplar")]


def measures() -> list[Query]:
    """Alerts without their limits: these have a value in good times too."""
    groups = [*GROUPS, *slo.groups()]
    return [Query(rule.name, rule.measure) for _, group in groups for rule in group if isinstance(rule, Alert)]


BOARDS = [query._replace(text=query.text.replace("[1m]", "[10s]")) for query in board_queries()]
EVERY = [*BOARDS, *(query for query in rule_queries() if ":" in query.place), *measures()]


async def trouble(folder: Path) -> Answers:
    """Run everything once; about twenty seconds, most of them Prometheus' own start."""
    answers = Answers()
    issue(authority("tests"), "sidecar", hosts=["localhost"]).write(folder, "tls")
    with closed_port() as closed:
        async with ScriptedUpstream(play) as upstream, Sidecar(document(upstream.port, closed, folder)) as sidecar:
            prometheus = Prometheus(folder, sidecar.status_port)
            until = time.monotonic() + 2 * DEADLINE
            loads = [asyncio.create_task(load(sidecar.port(), until)) for _ in range(3)]
            loads.append(asyncio.create_task(handshakes(sidecar.port("secure"), until)))
            try:
                await asyncio.to_thread(prometheus.wait_for, "a scrape", lambda: scraped(prometheus, 2))
                await sidecar.aapply(document(upstream.port, closed, folder, lifecycle={"drainDelay": "1s"}))
                await asyncio.to_thread(sidecar.refuse, {"apiVersion": "outrider.dev/v1alpha1", "kind": "SidecarConfig", "routes": 7})
                await asyncio.to_thread(prometheus.wait_for, "eight more scrapes", lambda: scraped(prometheus, 10))
                await asyncio.to_thread(answers.collect, prometheus)
                assert [load.exception() for load in loads if load.done()] == []
            finally:
                for one in loads:
                    one.cancel()
                await asyncio.gather(*loads, return_exceptions=True)
                prometheus.stop()
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    need_program("prometheus")
    return asyncio.run(trouble(tmp_path_factory.mktemp("prometheus")))


def absent_series(text: str, answers: Answers) -> list[str]:
    """Which of the series that cannot be here the query needs."""
    absent = list(NOT_HERE)
    absent += [series for series in ONLY_IN_CGROUPS if not answers.results[series]]
    return [series for series in absent if all(part in text for part in series.rstrip("}").split("{"))]


def test_the_scrape_is_accepted(answers: Answers) -> None:
    assert [(target["health"], target["lastError"]) for target in answers.targets] == [("up", "")]


def test_every_rule_is_evaluated_without_errors(answers: Answers) -> None:
    assert len(answers.rules) == len(rule_queries())
    assert {(rule["health"], rule.get("lastError", "")) for rule in answers.rules} == {("ok", "")}


@pytest.mark.parametrize("query", EVERY, ids=[query.place for query in EVERY])
def test_a_query_has_data(query: Query, answers: Answers) -> None:
    absent = absent_series(query.text, answers)

    # A query without data has been answered too: it is valid.
    assert absent or answers.results[query.text], f"{query.place} has no data: {query.text}"


def test_what_is_said_to_have_no_data_has_none(answers: Answers) -> None:
    assert {series for series in NOT_HERE if answers.results[series]} == set()


def test_the_trouble_is_what_dashboards_say_it_is(answers: Answers) -> None:
    """Names in the results, so that a query which answers anything at all is not enough."""
    by_title = {query.place: answers.results[query.text] for query in BOARDS}

    def values(place: str, label: str) -> set[str]:
        return {str(result["metric"].get(label)) for result in by_title[place]}

    assert values("outrider-workload.json: variable workload", "workload") == {"orders"}
    assert {"connection_refused", "http_response_timeout", "no_route", "http_response_incomplete"} <= values(
        "outrider-overview.json: Which failure A", "reason"
    )
    assert {"responseHeader"} <= values("outrider-overview.json: Which clock A", "clock")
    assert values("outrider-overview.json: Which rule A", "kind") == {"bare_lf"}
    assert values("outrider-workload.json: Retries A", "reason") >= {"status_503"}
    assert values("outrider-workload.json: Retries not made A", "why") == {"budget"}
    assert values("outrider-workload.json: Which route: most failures first A", "upstream") == {"app", "narrow", "gone", "None"}
    assert values("outrider-sidecar.json: Documents seen A", "result") >= {"applied", "rejected"}

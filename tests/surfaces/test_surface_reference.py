"""docs/reference.md says what the program does: every list in it is compared with the source or the running process."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.documents import one_upstream
from support.upstream import response

from sidecar.admin.app import make_app
from sidecar.admin.context import AdminContext
from sidecar.cli.flags import variable_of
from sidecar.cli.main import COMMANDS
from sidecar.errors import STATUS_OF
from sidecar.model.reason import Clock, Reason, Rejection
from sidecar.observe.logs import Event

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reference.md").read_text("utf-8")
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "sidecar").rglob("*.py")}
NAMED_BUT_NOT_RAISED = ("sidecar/errors.py", "sidecar/model/reason.py", "sidecar/protocol/problem.py", "sidecar/policy/retry.py")
ONLY_WITH_KUBERNETES = {"outrider_config_events_total", "outrider_kube_requests_total", "outrider_kube_watches"}
ONLY_WITH_TLS = {"outrider_certificate_current", "outrider_certificate_not_after_timestamp_seconds", "outrider_tls_handshakes_total"}
ONLY_IN_CGROUPS = {"outrider_memory_limit_bytes", "outrider_cpu_throttled_seconds_total"}


def table(title: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its own heading; backquotes are taken off."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def raised(name: str) -> bool:
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for path, text in SOURCES.items() if path not in NAMED_BUT_NOT_RAISED)


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"sidecar.cli.{command}").add_arguments(parser)
    return parser


def flags_of(command: str) -> dict[str, argparse.Action]:
    actions = parser_of(command)._actions
    return {word: action for action in actions for word in action.option_strings if word.startswith("--") and word != "--help"}


def taken(command: str, words: list[str], variable: str) -> bool:
    try:
        return "nonsense?" in vars(parser_of(command).parse_args(words)).values()
    except argparse.ArgumentError as error:
        return variable in str(error)


def test_it_lists_every_reason_with_its_status() -> None:
    assert {row[0]: int(row[1]) for row in table("Reasons")} == {reason.value: status for reason, status in STATUS_OF.items()}
    assert set(STATUS_OF) == set(Reason)


def test_a_reason_is_marked_as_later_exactly_when_nothing_raises_it() -> None:
    marked = {row[0] for row in table("Reasons") if "*later*" in row[2]}
    assert marked == {reason.value for reason in Reason if not raised(f"Reason.{reason.name}")}


def test_it_lists_every_clock() -> None:
    assert [row[0] for row in table("Clocks")] == [clock.value for clock in Clock]


def test_it_lists_every_rejection_and_each_is_raised_somewhere() -> None:
    assert [row[0] for row in table("Rejection kinds")] == [kind.value for kind in Rejection]
    assert [kind.name for kind in Rejection if not raised(f"Rejection.{kind.name}")] == []


def test_it_lists_every_event_of_the_log() -> None:
    assert {row[0] for row in table("Log lines")} == {event.value for event in Event}


def test_it_lists_every_command_and_every_flag() -> None:
    assert [row[0] for row in table("Commands")] == list(COMMANDS)
    assert [row[0].split()[0] for row in table("Flags of `outrider run`")] == sorted(
        flags_of("run"), key=[row[0].split()[0] for row in table("Flags of `outrider run`")].index
    )
    listed = {(row[0], row[1].split()[0]) for row in table("Flags of the other commands")}
    assert listed == {(command, flag) for command in COMMANDS if command != "run" for flag in flags_of(command)}


@pytest.mark.parametrize("command", [command for command in COMMANDS if flags_of(command)])
def test_every_flag_has_its_variable(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command makes of a variable that makes no sense names it; flags that take any text take the variable's."""
    required = {"explain": ["GET", "/"], "validate": ["-"]}.get(command, [])
    for flag in flags_of(command):
        if flag in ("--admin", "--header", "--filename"):  # looked at later; see the tests of the commands
            continue
        with monkeypatch.context() as patch:
            patch.setenv(variable_of(flag), "nonsense?")
            assert taken(command, required, variable_of(flag)), flag


def test_it_lists_every_request_that_the_admin_surface_answers() -> None:
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in make_app(cast("AdminContext", SimpleNamespace(traffic=None))).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert {row[0] for row in table("Admin surface")} == routes


# -- metrics


def families(text: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Types by family, and the label names that its samples have."""
    types = dict(re.findall(r"^# TYPE (outrider_\w+) (\w+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = defaultdict(set)
    for name, inside in re.findall(r"^(outrider_\w+?)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = name if name in types else re.sub("_(bucket|sum|count)$", "", name)
        labels[family].update(set(re.findall(r'(\w+)="', inside)) - {"le"})
    return types, labels


async def traffic(sidecar: Sidecar) -> None:
    """A bit of everything that is counted."""
    async with await RawClient.open(sidecar.port()) as client:
        assert (await client.request("/ok")).status == 200
        assert (await client.request("/retried")).status == 503
        assert (await client.request("/late")).status == 504
        assert (await client.request("/late", method="POST", body=b"x")).status == 504
    async with await RawClient.open(sidecar.port()) as client:
        await client.send(b"GET / HTTP/1.1\nHost: a\n\n")
        assert (await client.read_response()).status == 400


def test_it_lists_every_metric_with_its_type_and_labels() -> None:
    async def play(connection: Any) -> None:
        while True:
            request = await connection.read_request()
            if b"late" in request.start:
                await connection.read_until_close()
            await connection.send(response("503 No" if b"retried" in request.start else "200 OK"))

    async def main() -> str:
        async with ScriptedUpstream(play) as upstream:
            retry = {"attempts": 1, "codes": [503], "backoff": "1ms", "maxBackoff": "1ms", "conditions": ["Timeout"]}
            route = {"name": "all", "backendRefs": [{"name": "app"}], "retry": retry, "timeouts": {"responseHeader": "600ms"}}
            doc = one_upstream(upstream.port, routes=[route])
            route["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "app"}, "percent": 100}}]
            doc["upstreams"][0] |= {"outlierDetection": {}, "circuitBreaker": {}, "healthCheck": {}}
            async with Sidecar(doc) as sidecar:
                await traffic(sidecar)
                async with await RawClient.open(sidecar.status_port) as client:
                    return (await client.request("/metrics")).body.decode()

    types, labels = families(asyncio.run(main()))
    rows = table("Metrics")
    assert [(row[0], row[1]) for row in rows] == list(types.items())
    told = {row[0]: set(row[2].split()) for row in rows}
    silent = {name for name in told if name not in labels}
    assert silent <= ONLY_IN_CGROUPS | ONLY_WITH_KUBERNETES | ONLY_WITH_TLS | {"outrider_observer_failures_total"}
    assert {name: told[name] for name in labels} == labels


def test_the_links_inside_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings

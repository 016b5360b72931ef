"""product.md 3.6 on the real process, most of it while traffic goes on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from document_kit import INBOUND, OUTBOUND, Document, Gate, document, echo_head, field_of, live, reason_of, route_to, says, upstream_at
from support import Connection, RawClient, ScriptedUpstream, Sidecar

CLIENTS = 4
QUICK = {"drainDelay": "0s", "drainTimeout": "1s"}


async def admin(sidecar: Sidecar, path: str) -> Any:
    async with await RawClient.open(sidecar.admin_port) as client:
        return json.loads((await client.request(path, host="localhost")).body)


async def metric(sidecar: Sidecar, name: str) -> dict[str, float]:
    """Labels, sorted -> value of the series of that name."""
    async with await RawClient.open(sidecar.status_port) as client:
        text = (await client.request("/metrics")).body.decode()
    found = re.findall(rf"^outrider_{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {",".join(sorted(labels.split(","))): float(value) for labels, value in found}


@asynccontextmanager
async def load(sidecar: Sidecar, expected: set[str]) -> AsyncIterator[list[str]]:
    """`CLIENTS` clients that ask all the time, each on one connection; no request may fail, and none of them is told to go."""
    seen: list[str] = []
    stop = asyncio.Event()

    async def ask_on() -> int:
        count = 0
        async with await RawClient.open(sidecar.port()) as client:
            while not stop.is_set():
                reply = await client.request("/x", method="POST", body=b"a" * 3000)
                assert (reply.status, reply.get("connection")) == (200, None), (reply.start, reply.body)
                seen.append(reply.body.decode())
                count += 1
        return count

    asking = [asyncio.create_task(ask_on()) for _ in range(CLIENTS)]
    try:
        yield seen
        before = len(seen)
        while len(seen) < before + 2 * CLIENTS and not any(task.done() for task in asking):
            await asyncio.sleep(0.01)
    finally:
        stop.set()
        done = await asyncio.gather(*asking)
    assert min(done) > 0
    assert set(seen) == expected


@live
async def test_reloads_under_load_fail_nothing_and_an_unchanged_upstream_keeps_its_connections() -> None:
    async with ScriptedUpstream(says("app")) as app, ScriptedUpstream(says("other")) as other:

        def version(number: int) -> Document:
            odd = bool(number % 2)
            routes = [route_to("app", timeouts={"request": f"{10 + number}s"})]
            if odd:
                routes.append(route_to("other", hostnames=["other.example"]))
            doc = document(app.port, routes=routes, telemetry={"accessLog": {"sample": 0.5 if odd else 0.1}}, lifecycle=QUICK)
            doc["listeners"] = [{**INBOUND, "idleTimeout": f"{100 + number}s", "maxHeaderCount": 100 + number}]
            if odd:
                doc["upstreams"].insert(0, upstream_at(other.port, name="other"))
                doc["listeners"].insert(0, OUTBOUND)
            return doc

        async with Sidecar(version(0)) as sidecar:
            async with load(sidecar, {"app"}):
                for number in range(1, 13):
                    await sidecar.aapply(version(number))
            assert len(app.connections) <= CLIENTS
            assert (await metric(sidecar, "config_updates_total"))['result="applied",source="file"'] == 13
            failed = {
                labels for labels in await metric(sidecar, "requests_total") if 'reason="none"' not in labels or 'code="200"' not in labels
            }
            assert failed == set()


@live
async def test_a_changed_upstream_keeps_the_connections_that_its_change_does_not_concern() -> None:
    async with ScriptedUpstream(says("app")) as app, ScriptedUpstream(says("more")) as more:
        changes: list[Document] = [
            {},
            {"connectTimeout": "3s"},
            {"connectionPool": {"maxConnections": 100}},
            {"loadBalancer": {"policy": "RoundRobin"}},
            {"retryBudget": {"percent": 50}},
            {"targets": [{"url": app.url}, {"url": more.url, "weight": 0}]},
        ]
        async with Sidecar(document(app.port, lifecycle=QUICK)) as sidecar:
            async with load(sidecar, {"app"}):
                for number, change in enumerate(changes[1:] + changes):
                    await sidecar.aapply(document(app.port, up=change, lifecycle={**QUICK, "drainDelay": f"{number}s"}))
            assert len(app.connections) <= CLIENTS
            assert more.connections == []


@live
async def test_traffic_moves_to_new_targets_and_back_without_a_failure_and_old_connections_end() -> None:
    async with ScriptedUpstream(says("one")) as one, ScriptedUpstream(says("two")) as two:
        async with Sidecar(document(one.port, lifecycle=QUICK)) as sidecar:
            async with load(sidecar, {"one", "two"}) as seen:
                for target in (two, one, two):
                    await sidecar.aapply(document(target.port, lifecycle=QUICK))
                    start = len(seen)
                    while len(seen) < start + 3 * CLIENTS:
                        await asyncio.sleep(0.01)
                    assert seen[-1] == ("two" if target is two else "one")
            await asyncio.wait_for(asyncio.gather(*(connection.ended.wait() for connection in one.connections)), 30)


@live
async def test_an_exchange_in_flight_finishes_on_the_snapshot_that_it_began_with() -> None:
    def filtered(version: str, port: int, **timeouts: str) -> Document:
        mark = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-version", "value": version}]}}
        return document(port, route={"filters": [mark], "timeouts": timeouts}, lifecycle=QUICK)

    gate = Gate()
    async with ScriptedUpstream(gate) as old, ScriptedUpstream(says("new")) as new, Sidecar(filtered("one", old.port)) as sidecar:
        async with await RawClient.open(sidecar.port()) as waiting, await RawClient.open(sidecar.port()) as fresh:
            await waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await gate.holds()
            await sidecar.aapply(filtered("two", new.port, request="700ms"))
            reply = await fresh.request()
            assert (reply.body, reply.get("x-version")) == (b"new", "two")
            await asyncio.sleep(0.9)  # the new document's clock is not the old exchange's
            gate.open()
            reply = await waiting.read_response()
            assert (reply.body, reply.get("x-version"), reply.get("connection")) == (b"late", "one", None)
            assert (await waiting.request()).get("x-version") == "two"


@live
async def test_tunnels_and_upgraded_connections_outlive_their_route_and_upstream() -> None:
    async def echo(connection: Connection) -> None:
        head = await connection.read_head()
        if head.start.startswith(b"GET"):
            await connection.send(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await connection.read_some():
            await connection.send(data)

    async with ScriptedUpstream(echo) as app, ScriptedUpstream(says("new")) as new, Sidecar(document(app.port, lifecycle=QUICK)) as sidecar:
        async with await RawClient.open(sidecar.port()) as socket:
            await socket.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert (await socket.read_response()).status == 101
            for name in ("renamed", "again"):
                doc = document(new.port, up={"name": name}, route={"name": name, "backendRefs": [{"name": name}]}, lifecycle=QUICK)
                await sidecar.aapply(doc)
                await socket.send(b"ping")
                assert await socket.read_exactly(4) == b"ping"
            async with await RawClient.open(sidecar.port()) as client:
                assert reason_of(await client.request()) == "new"


@live
async def test_open_connections_have_the_new_settings_from_their_next_request_on() -> None:
    async with ScriptedUpstream(echo_head) as app, Sidecar(document(app.port)) as sidecar, await RawClient.open(sidecar.port()) as client:
        assert field_of(await client.request(headers="X-Real-IP: 1.1.1.1\r\n"), "x-real-ip") == ["1.1.1.1"]
        await sidecar.aapply(document(app.port, listener={"trustedProxies": []}))
        assert field_of(await client.request(headers="X-Real-IP: 1.1.1.1\r\n"), "x-real-ip") == ["127.0.0.1"]
        await sidecar.aapply(document(app.port, listener={"forwarded": "Off"}))
        assert field_of(await client.request(), "x-forwarded-for") == []
        await sidecar.aapply(document(app.port, listener={"maxHeaderCount": 2}))
        assert reason_of(await client.request(headers="a: 1\r\nb: 2\r\n")) == "431 header_section_too_large"


# Documents that are no good


def pretty(doc: Document) -> str:
    return json.dumps(doc, indent=1)


def line_with(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


@live
async def test_an_invalid_edit_keeps_the_last_good_and_says_what_and_where() -> None:
    async with ScriptedUpstream(says("app")) as app, Sidecar(document(app.port)) as sidecar:
        good = await admin(sidecar, "/config")
        bad = pretty(document(app.port, route={"timeouts": {"request": "3 seconds"}, "retry": {"codes": [200]}}))
        failing = pretty(document(app.port, tests=[{"request": {"url": "/"}, "expect": {"route": None}}]))
        async with load(sidecar, {"app"}):
            line = await asyncio.to_thread(sidecar.refuse, bad)
            assert f":{line_with(bad, '3 seconds')}:" in line["problems"][0]
            told = await admin(sidecar, "/config/problems")
            assert [(problem["path"], problem["line"]) for problem in told["problems"]] == [
                ("routes[0].timeouts.request", line_with(bad, "3 seconds")),
                ("routes[0].retry.codes[0]", line_with(bad, "200")),
            ]
            assert await metric(sidecar, "config_rejected") == {"": 1.0}
            async with await RawClient.open(sidecar.status_port) as probe:
                assert (await probe.request("/readyz")).status == 200
            await asyncio.to_thread(sidecar.refuse, failing)
            told = await admin(sidecar, "/config/problems")
            assert [(problem["path"], problem["line"]) for problem in told["problems"]] == [
                ("tests[0].expect.route", line_with(failing, '"route"'))
            ]
            assert await admin(sidecar, "/config") == good
            await sidecar.aapply(document(app.port, defaults={}))
            assert (await admin(sidecar, "/config/problems"))["problems"] == []
            assert await metric(sidecar, "config_rejected") == {"": 0.0}


@live
async def test_the_same_bytes_again_change_nothing_but_end_a_rejection() -> None:
    async with ScriptedUpstream(says("app")) as app, Sidecar(document(app.port)) as sidecar:
        before = await admin(sidecar, "/config")
        sidecar.edit(document(app.port))
        await asyncio.to_thread(sidecar.refuse, "nonsense")
        assert (await admin(sidecar, "/config/problems"))["problems"] != []
        sidecar.edit(document(app.port))
        while (await admin(sidecar, "/config/problems"))["problems"]:
            await asyncio.sleep(0.02)
        assert await admin(sidecar, "/config") == before  # `loadedAt` too
        assert len(sidecar.events("config_applied")) == 1


@live
async def test_of_many_edits_at_once_the_last_one_is_in_force() -> None:
    async with ScriptedUpstream(echo_head) as app, Sidecar(document(app.port)) as sidecar:
        for number in range(20):
            mark = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-edit", "value": str(number)}]}}
            sidecar.edit(document(app.port, route={"filters": [mark]}))
        async with await RawClient.open(sidecar.port()) as client:
            while field_of(await client.request(), "x-edit") != ["19"]:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert field_of(await client.request(), "x-edit") == ["19"]


@live
async def test_a_restart_with_a_bad_document_serves_the_last_good_one() -> None:
    async with ScriptedUpstream(says("app")) as app, Sidecar(document(app.port)) as first:
        state = f"--state-dir={first.folder / 'state'}"
        await first.astop()
        bad = pretty(document(app.port, route={"backendRefs": [{"name": "ap"}]}))
        async with Sidecar(bad, flags=[state]) as second:
            async with await RawClient.open(second.port()) as client:
                assert reason_of(await client.request()) == "app"
            assert (await admin(second, "/config"))["source"] == "last_good"
            (problem,) = (await admin(second, "/config/problems"))["problems"]
            assert (problem["path"], problem["line"]) == ("routes[0].backendRefs[0].name", line_with(bad, '"ap"'))
            async with await RawClient.open(second.status_port) as probe:
                assert (await probe.request("/readyz")).status == 200
            await second.aapply(document(app.port, defaults={}))
            assert (await admin(second, "/config"))["source"] == "file"
            assert (await admin(second, "/config/problems"))["problems"] == []


@live
async def test_a_large_document_is_judged_beside_the_traffic_and_has_lines_too() -> None:
    def large(port: int, **last: Any) -> Document:
        routes = [route_to("app", hostnames=[f"host-{number}.example"]) for number in range(300)]
        named = [{**route, "name": f"route-{number}"} for number, route in enumerate(routes)]
        return document(port, routes=[*named, {**route_to("app"), "name": "last", **last}])

    async with ScriptedUpstream(says("app")) as app, Sidecar(document(app.port)) as sidecar:
        async with load(sidecar, {"app"}):
            await sidecar.aapply(large(app.port))
            bad = pretty(large(app.port, timeouts={"request": "soon"}))
            await asyncio.to_thread(sidecar.refuse, bad)
            (problem,) = (await admin(sidecar, "/config/problems"))["problems"]
            assert (problem["path"], problem["line"]) == ("routes[300].timeouts.request", line_with(bad, '"soon"'))

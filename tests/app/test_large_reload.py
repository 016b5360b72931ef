"""Reloads of large and hostile documents under traffic: no request fails, and each document gets its due."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from support import RawClient, ScriptedUpstream, Sidecar
from support.upstream import response

ROUTES = 5000


def base(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1"}, {"name": "other", "port": 0, "bind": "127.0.0.1"}],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "lifecycle": {"drainDelay": "0s", "drainTimeout": "2s"},
    }


def route(number: int, path: str, kind: str = "PathPrefix") -> dict[str, Any]:
    return {"name": f"r{number}", "matches": [{"path": {"type": kind, "value": path}}], "backendRefs": [{"name": "app"}]}


def as_json(port: int, *routes: dict[str, Any]) -> str:
    return json.dumps({**base(port), "routes": [*routes, {"name": "rest", "backendRefs": [{"name": "app"}]}]})


def as_yaml(port: int) -> str:
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in base(port).items())
    routes = "".join(
        f"  - name: y{n}\n    hostnames: [h{n % 50}.test]\n    matches: [{{path: {{type: PathPrefix, value: /s/{n}}}, method: GET}}]\n"
        f"    backendRefs: [{{name: app}}]\n    timeouts: {{request: {n % 9}s}}\n"
        for n in range(ROUTES)
    )
    return f"{head}routes:\n{routes}  - {{name: rest, backendRefs: [{{name: app}}]}}\n"


async def play(connection: Any) -> None:
    while True:
        await connection.read_request()
        await connection.send(response(body=b"fine"))


def test_no_request_fails_while_large_and_hostile_documents_come() -> None:
    async def main() -> None:
        async with ScriptedUpstream(play) as upstream, Sidecar(as_json(upstream.port)) as sidecar:
            port = upstream.port
            stop = asyncio.Event()

            async def load() -> int:
                count = 0
                async with await RawClient.open(sidecar.port()) as client:
                    while not stop.is_set():
                        answer = await client.request("/s/77/x", host="h27.test")
                        assert (answer.status, answer.body, answer.get("connection")) == (200, b"fine", None)
                        count += 1
                        await asyncio.sleep(0.005)
                return count

            loads = [asyncio.create_task(load()) for _ in range(2)]
            applied = [
                await sidecar.aapply(as_yaml(port)),
                await sidecar.aapply(as_json(port, *(route(n, f"/j/{n}") for n in range(ROUTES)))),
            ]
            assert [line["routes"] for line in applied] == [ROUTES + 1, ROUTES + 1]
            expressions = as_json(port, *(route(n, rf"/x/\pL{{1,40}}{n}", "RegularExpression") for n in range(6000)))
            for hostile, said in (
                ("x: [" + "a: {}, " * 1_500_000, "larger than"),
                ("- {a: [" * 140_000, "YAML"),
                (expressions, "too large"),
            ):
                line = await asyncio.to_thread(sidecar.refuse, hostile)
                assert said in " ".join(line["problems"])
            stop.set()
            assert min(await asyncio.gather(*loads)) > 0

    asyncio.run(main())

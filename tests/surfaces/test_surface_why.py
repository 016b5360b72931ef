"""`outrider why`, and what `/runtime` and the log say under duress: real processes, real requests."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.upstream import answer, response

OUTRIDER = [sys.executable, "-m", "sidecar"]
DOCUMENT = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - {name: inbound, port: 0, bind: 127.0.0.1}
upstreams:
  - name: app
    targets: [{url: "http://127.0.0.1:PORT"}]
routes:
  - name: api
    matches: [{path: {value: /api}}]
    backendRefs: [{name: app}]
    timeouts:
      responseHeader: 100ms
"""


def why(sidecar: Sidecar, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
    command = [*OUTRIDER, "why", *words, f"--admin=127.0.0.1:{sidecar.admin_port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=env)


async def silent(connection: Any) -> None:
    await connection.read_request()
    await connection.read_until_close()


def test_why_tells_of_a_failure_by_its_id_and_still_does_so_in_the_words_of_the_time_after_a_reload() -> None:
    async def main() -> None:
        async with ScriptedUpstream(silent) as upstream:
            document = DOCUMENT.replace("PORT", str(upstream.port))
            async with Sidecar(document) as sidecar:
                async with await RawClient.open(sidecar.port()) as client:
                    reply = await client.request("/api/orders?secret=1")
                assert reply.status == 504
                request_id = reply.get("x-request-id") or ""
                await asyncio.to_thread(tells, sidecar, request_id, "")
                await sidecar.aapply("# moved down\n" + document.replace("100ms", "9s"))
                await asyncio.to_thread(tells, sidecar, request_id, "not the active one any more")
                last = await asyncio.to_thread(why, sidecar, "--last", "--output=json")
                assert json.loads(last.stdout)["records"][0]["requestId"] == request_id

    asyncio.run(main())


def tells(sidecar: Sidecar, request_id: str, more: str) -> None:
    done = why(sidecar, request_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert "504 http_response_timeout" in done.stdout
    assert "clock responseHeader: 100ms, line 13" in done.stdout
    assert "/api/orders" in done.stdout
    assert "secret" not in done.stdout
    assert more in done.stdout


def test_bytes_that_were_no_request_are_found_by_the_id_of_the_reply_and_unknown_ids_end_with_1() -> None:
    async def main() -> None:
        async with Sidecar(DOCUMENT.replace("PORT", "9")) as sidecar:
            assert (await asyncio.to_thread(why, sidecar, "--last")).returncode == 1
            async with await RawClient.open(sidecar.port()) as client:
                await client.send(b"GET / HTTP/1.1\nHost: a\n\n")
                reply = await client.read_response()
            done = await asyncio.to_thread(why, sidecar, reply.get("x-request-id") or "")
            assert done.returncode == 0, done.stderr
            assert "400 http_request_error" in done.stdout
            unknown = await asyncio.to_thread(why, sidecar, "nobody")
            assert (unknown.returncode, unknown.stdout) == (1, "")
            assert "nobody: not known" in unknown.stderr

    asyncio.run(main())


def metric(page: bytes, name: str) -> float:
    return next(float(line.split()[-1]) for line in page.decode().splitlines() if line.startswith(f"{name} "))


def addresses(config: Path) -> list[str]:
    return [f"--config={config}", "--status-address=127.0.0.1:0", "--admin-address=127.0.0.1:0", "--state-dir=off", "--log-format=json"]


def test_a_reader_of_the_log_that_has_gone_to_sleep_costs_lines_and_no_request(tmp_path: Path) -> None:
    """Standard output is a pipe that holds 4 KiB, of which nobody reads more than the first lines."""

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x"))) as upstream:
            config = tmp_path / "sidecar.yaml"
            config.write_text(DOCUMENT.replace("PORT", str(upstream.port)).replace("100ms", "20s"))
            reader, writer = os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
            process = await asyncio.create_subprocess_exec(*OUTRIDER, "run", *addresses(config), stdout=writer)
            os.close(writer)
            try:
                await flood(*await asyncio.to_thread(ports, reader))
            finally:
                process.terminate()
                code = await process.wait()
                os.close(reader)
            assert code == 0

    asyncio.run(main())


def ports(reader: int) -> tuple[int, int]:
    """Of the traffic and of the probes, from the `ready` line; what comes after it is never read."""
    text = b""
    while b'"event": "ready"' not in text or not text.endswith(b"\n"):
        text += os.read(reader, 65536)
    line = next(json.loads(line) for line in text.splitlines() if b'"event": "ready"' in line)
    return int(line["listeners"]["inbound"].rpartition(":")[2]), int(line["status"].rpartition(":")[2])


async def flood(port: int, status: int) -> None:
    """Three times as many bytes of access lines as the pipe and the queue hold; the requests and the probes are answered."""
    agent = "a" * 500
    async with await RawClient.open(port) as client:
        for _ in range(40):
            await client.send(f"GET /api HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n".encode() * 100)
            for _ in range(100):
                assert (await client.read_response()).status == 200
    async with await RawClient.open(status) as client, asyncio.timeout(20):
        while metric((await client.request("/metrics")).body, "outrider_log_lines_dropped_total") == 0:
            await asyncio.sleep(0.05)
        assert (await client.request("/livez")).status == 200


@pytest.mark.parametrize("seed", [7])
def test_ten_thousand_inventive_requests_make_no_new_series(seed: int) -> None:
    """Methods, hosts, paths and ids are the callers' to choose; the number of series is not."""

    async def series(sidecar: Sidecar) -> set[str]:
        async with await RawClient.open(sidecar.status_port) as client:
            page = (await client.request("/metrics")).body.decode()
        lines = [
            line for line in page.splitlines() if line.startswith("outrider_") and "interface=" not in line
        ]  # the machine's come and go
        return {line.rpartition(" ")[0] for line in lines}

    async def inventive(sidecar: Sidecar, first: int, count: int) -> None:
        async with await RawClient.open(sidecar.port()) as client:
            for start in range(first, first + count, 100):
                heads = [
                    f"M{n}X HTTP/1.1".replace("X", f" /api/{n * seed}?q={n}")
                    + f"\r\nHost: h{n}.example\r\nX-Request-ID: id-{n}\r\nUser-Agent: u{n}\r\n\r\n"
                    for n in range(start, start + 100)
                ]
                await client.send("".join(heads).encode())
                for _ in heads:
                    assert (await client.read_response()).status == 200

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x"))) as upstream:
            document = DOCUMENT.replace("PORT", str(upstream.port)) + "telemetry: {accessLog: {format: None}}\n"
            async with Sidecar(document.replace("100ms", "20s")) as sidecar:
                await inventive(sidecar, 0, 100)
                before = await series(sidecar)
                await inventive(sidecar, 100, 10_000)
                assert await series(sidecar) == before
                assert any('method="_OTHER"' in line for line in before)

    asyncio.run(main())

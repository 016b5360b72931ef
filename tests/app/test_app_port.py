"""`--app-port`: a plain way in to the application while there is no document."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.upstream import answer, response

from sidecar.config import built_in
from sidecar.config.check import check_text


def document(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 15001, "bind": "127.0.0.1"}],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
    }


@pytest.fixture
def inbound_port_is_free() -> Iterator[None]:
    """The built-in document has no port to choose: another run of these tests on this machine is waited for."""
    with (Path(tempfile.gettempdir()) / f"outrider-tests-{os.getuid()}-15001.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", 15001))
            except OSError:
                pytest.skip("port 15001 is in use: end the sidecar that runs on this machine")
        yield


async def body_of(port: int) -> bytes:
    async with await RawClient.open(port) as client:
        return (await client.request("/x", host="localhost")).body


async def admin(sidecar: Sidecar, path: str) -> Any:
    async with await RawClient.open(sidecar.admin_port) as client:
        return json.loads((await client.request(path, host=f"127.0.0.1:{sidecar.admin_port}")).body)


def test_the_built_in_document_is_valid_whatever_the_port() -> None:
    for port in (1, 8000, 65535):
        result = check_text(built_in.document(port))
        assert not result.problems
        assert not result.warnings


@pytest.mark.usefixtures("inbound_port_is_free")
def test_without_a_document_every_request_goes_to_the_application() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"the application"))) as upstream:
            async with Sidecar(None, flags=[f"--app-port={upstream.port}"]) as sidecar:
                assert await body_of(15001) == b"the application"
                assert (await admin(sidecar, "/config"))["source"] == "built_in"

    asyncio.run(main())


@pytest.mark.usefixtures("inbound_port_is_free")
def test_a_document_takes_the_place_of_the_built_in_one_and_is_not_taken_for_it_at_the_next_start() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"plain"))) as plain, ScriptedUpstream(answer(response(body=b"own"))) as own:
            async with Sidecar(None, flags=[f"--app-port={plain.port}"]) as sidecar:
                assert await body_of(15001) == b"plain"
                assert not list((sidecar.folder / "state").glob("*"))
                sidecar.edit(document(own.port))
                await sidecar.await_for("config_applied", source="file")
                assert await body_of(15001) == b"own"

    asyncio.run(main())


@pytest.mark.usefixtures("inbound_port_is_free")
def test_an_invalid_document_at_the_start_leaves_the_built_in_one_and_its_problems_stay_shown() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"plain"))) as plain:
            async with Sidecar("listeners: 7\n", flags=[f"--app-port={plain.port}"]) as sidecar:
                assert await body_of(15001) == b"plain"
                assert (await admin(sidecar, "/config/problems"))["problems"]

    asyncio.run(main())


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "8000.5"])
def test_a_port_that_is_none_is_a_usage_error(text: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar", "run", f"--app-port={text}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path, env={"PYTHONPATH": str(Path.cwd())}
    )
    assert done.returncode == 2
    assert "is not a port" in done.stderr

"""A sidecar imports no client library that its document does not name."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, sys
import sidecar.app
from sidecar.model.snapshot import Client, HttpProtocol, Upstream
from sidecar.upstream.transports import load_clients
asyncio.run(load_clients([Upstream(name="app", client=Client(sys.argv[1]), protocol=HttpProtocol(sys.argv[2]))]))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"aiohttp", "yarl", "multidict", "httpx", "httpcore", "h11", "h2", "hpack", "anyio"}))
"""


@pytest.mark.parametrize(
    ("client", "protocol", "there"),
    [
        ("Native", "HTTP1", []),
        ("Aiohttp", "HTTP1", ["aiohttp", "multidict", "yarl"]),
        ("Httpx", "HTTP1", ["anyio", "h11", "h2", "hpack", "httpcore", "httpx"]),
    ],
)
def test_only_the_library_of_the_client_that_is_named_is_imported(client: str, protocol: str, there: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, client, protocol], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(there)

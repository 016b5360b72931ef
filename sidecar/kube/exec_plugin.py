"""Runs a kubeconfig's exec plug-in: a program that prints credentials (client.authentication.k8s.io).

Ours and not the library's, because a plug-in that hangs (it waits for a browser, or for a network that is away) must not
hold the sidecar, and must not live on after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.kube.api import KubeError
from sidecar.kube.text import one_line
from sidecar.tasks import create_task

SECONDS: Final = 30.0
FAREWELL_SECONDS: Final = 1.0
MAX_OUTPUT: Final = 1024 * 1024
"""Bytes of stdout; credentials are a few KiB."""
MAX_COMPLAINT: Final = 64 * 1024


async def run(command: Sequence[str], env: Mapping[str, str], api_version: str) -> dict[str, Any]:
    """The `status` that the plug-in prints: `token`, or `clientCertificateData` with `clientKeyData`. Raises KubeError."""
    name = command[0]
    asked = {"apiVersion": api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
    try:
        process = await _start(command, {**env, "KUBERNETES_EXEC_INFO": json.dumps(asked)})
    except OSError as error:
        raise KubeError(f"the kubeconfig's exec plug-in {name} cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(SECONDS):
            printed, complaint = await asyncio.gather(_read(process.stdout, MAX_OUTPUT), _read(process.stderr, MAX_COMPLAINT))
            code = await process.wait()
    except BaseException as error:
        await _end(process)
        if isinstance(error, TimeoutError):
            raise KubeError(f"the kubeconfig's exec plug-in {name} has not answered within {SECONDS:.0f} s") from None
        raise
    if code:
        raise KubeError(f"the kubeconfig's exec plug-in {name} ended with code {code}: {one_line(complaint) or 'no message'}")
    return _status(name, printed, api_version)


async def _start(command: Sequence[str], env: Mapping[str, str]) -> Process:
    """Start it. Who is cancelled meanwhile waits for the start, and ends what was started. Raises OSError."""
    starting = create_task(_spawn(command, env), name="exec plug-in")
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        started = starting.result()
        if not isinstance(started, OSError):
            await _end(started)
        raise
    if isinstance(started, OSError):
        raise started
    return started


async def _spawn(command: Sequence[str], env: Mapping[str, str]) -> Process | OSError:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    words, env = [str(word) for word in command], {str(key): str(value) for key, value in env.items()}  # YAML has numbers, too
    try:
        return await asyncio.create_subprocess_exec(*words, env=env, stdin=nothing, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        return error


async def _end(process: Process) -> None:
    """End it with everything that it has started, and see the ends of its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await asyncio.gather(_read(process.stdout, 0), _read(process.stderr, 0))
            return
    process._transport.close()  # type: ignore[attr-defined]  # somebody has left the group and holds our pipes; asyncio has no public way to let go of them
    await asyncio.sleep(0.01)


async def _read(stream: asyncio.StreamReader | None, cap: int) -> bytes:
    """All that comes, of which the first `cap` bytes are kept: the program must not hang because nobody reads."""
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(65536)):
        kept += chunk[: max(0, cap - len(kept))]
    return bytes(kept)


def _status(name: str, printed: bytes, api_version: str) -> dict[str, Any]:
    try:
        said = json.loads(printed)
        status, version = said["status"], said["apiVersion"]
    except (ValueError, TypeError, KeyError):
        raise KubeError(f"the kubeconfig's exec plug-in {name} has not printed an ExecCredential with a status") from None
    if version != api_version:
        raise KubeError(f"the kubeconfig's exec plug-in {name} answers as {one_line(str(version))}, the kubeconfig asks for {api_version}")
    if not isinstance(status, dict) or not ({"token"} <= status.keys() or {"clientCertificateData", "clientKeyData"} <= status.keys()):
        raise KubeError(f"the kubeconfig's exec plug-in {name} has printed neither a token nor a certificate with its key")
    return status

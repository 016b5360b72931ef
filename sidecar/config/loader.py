"""Loading without holding up traffic: small documents at once, larger ones in a child, the snapshot built in slices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

import sidecar
from sidecar.config.compile import Origins, compile_in_slices
from sidecar.config.load import Problems, digest, load
from sidecar.config.pace import in_slices
from sidecar.config.packed import Answer, Packed
from sidecar.config.parse import MAX_BYTES
from sidecar.config.problem import Problem
from sidecar.model.snapshot import Snapshot
from sidecar.tasks import create_task

INLINE_BYTES: Final = 16 * 1024
"""Documents up to here are loaded where we are: less work than starting a child (20 ms for YAML, 10 ms for JSON)."""
CHILD_SECONDS: Final = 30.0
"""Wall-clock time for a child, at a tenth of a core still enough for 1 MiB."""
_MAX_ANSWER: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_KILLED_SECONDS: Final = 5.0
_IMPORT_ROOT: Final = str(Path(sidecar.__file__).resolve().parent.parent)


class Compiled(NamedTuple):
    """A document that can become active. `packed` is the document itself, kept small."""

    snapshot: Snapshot
    origins: Origins
    packed: Packed


class ChildFailed(Exception):
    """A child gave no answer; the text is a sentence for the document's author."""


async def load_async(data: bytes, *, revision: str = "") -> Compiled | Problems:
    """`load`, never holding the event loop for more than some 20 ms. A cancelled call leaves no child behind."""
    if len(data) <= INLINE_BYTES or len(data) > MAX_BYTES:
        outcome = load(data, revision=revision)
        return outcome if isinstance(outcome, Problems) else Compiled(outcome.snapshot, outcome.origins, Packed.of(outcome.document))
    try:
        answer = await ask_child(data)
    except ChildFailed as error:
        return Problems([Problem("", 1, 1, str(error))])
    if answer.packed is None:
        return Problems(answer.problems)
    packed = answer.packed
    slices = compile_in_slices(
        packed.document_without_routes(), packed.iter_routes(), revision=revision, digest=digest(data), warnings=tuple(answer.warnings)
    )
    snapshot = await in_slices(slices)
    return Compiled(snapshot, Origins.decode(answer.origins), answer.packed)


async def ask_child(data: bytes, *, seconds: float = CHILD_SECONDS) -> Answer:
    """Have a child judge `data`. Raises ChildFailed when it gives no answer in time, in size, or at all."""
    process = await _start()
    try:
        async with asyncio.timeout(seconds):
            output = await _converse(process, data)
            status = await process.wait()
    except TimeoutError:
        raise ChildFailed(
            f"the document could not be checked within {seconds:g} s (make it smaller, or give the sidecar more CPU)"
        ) from None
    finally:
        await _end(process)
    try:
        return Answer.decode(output)
    except msgspec.DecodeError:
        ending = f"signal {-status}" if status < 0 else f"status {status}"
        raise ChildFailed(
            f"the document could not be checked: the checker ended with {ending} (make the document smaller or simpler)"
        ) from None


async def _start() -> Process:
    """A child that waits for its document. Cancelled: it has been ended, for the loops lose sight of one that is just being started."""
    starting = create_task(_spawn(), name="start checker")
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.shield(_end_when_started(starting))
        raise
    if isinstance(process, OSError):
        raise ChildFailed(
            f"the document could not be checked: no process can be started ({process.strerror}); the sidecar needs more pids or memory"
        ) from process
    return process


async def _spawn() -> Process | OSError:
    # -P: the working folder is not searched for modules; ours are found where this process found them.
    arguments = (sys.executable, "-P", "-m", "sidecar.config.child")
    environment = {**os.environ, "PYTHONPATH": _IMPORT_ROOT}
    try:
        return await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment)
    except OSError as error:
        return error


async def _end_when_started(starting: asyncio.Task[Process | OSError]) -> None:
    process = await starting
    if not isinstance(process, OSError):
        await _end(process)


async def _converse(process: Process, data: bytes) -> bytes:
    """Send the document, read the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):  # it died: its status tells
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()  # not waited for: asyncio logs an error when that wait is cancelled
    pieces: list[bytes] = []
    size = 0
    while piece := await process.stdout.read(_READ_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ANSWER:
            raise ChildFailed("the document could not be checked: the answer is too long (make the document smaller)")
    return b"".join(pieces)


async def _end(process: Process) -> None:
    """Leave no process, pipe or transport behind, whatever happened, also when cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await asyncio.shield(_reap(process))


async def _reap(process: Process) -> None:
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_SECONDS):
            while await process.stdout.read(_READ_BYTES):
                pass
            await process.wait()

"""A real `outrider run` process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

Document = str | Mapping[str, Any]


class Sidecar:
    """`with Sidecar(document) as sidecar:` (or `async with`): a process on a document of its own, ready to serve.

    `document` is YAML text or a mapping; give its listeners port 0. Status and admin get free loopback ports, the
    state folder is the process's own. Leaving the block stops it at once (SIGINT) and fails when it printed a
    traceback. The blocking calls take the event loop with them; inside a coroutine prefer the `a...` twins where the
    sidecar must talk to an upstream of the same loop meanwhile.
    """

    def __init__(
        self,
        document: Document | None,
        *,
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        wait_ready: bool = True,
        timeout: float = 60.0,
    ) -> None:
        self._document = document
        self._flags = list(flags)
        self._prefix = list(prefix)
        self._env = {**os.environ, **(env or {})}
        self._wait_ready = wait_ready
        self.timeout = timeout
        """Seconds that any wait here may take."""
        self._changed = threading.Condition()
        self._readers: list[threading.Thread] = []
        self._streams_ended = 0
        self.lines: list[str] = []
        """What it printed, stdout and stderr, without line ends."""
        self.log: list[dict[str, Any]] = []
        """The lines that are JSON objects, less those about a machine that had no CPU for it: they may come at any time."""

    # Life

    def start(self) -> Self:
        """Start the process and wait for its `ready` line."""
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-test-")
        self.folder = Path(self._folder.name)
        self.config = self.folder / "sidecar.yaml"
        if self._document is not None:
            self.edit(self._document)
        command = [
            *self._prefix,
            sys.executable,
            "-m",
            "sidecar",
            "run",
            f"--config={self.config}",
            "--status-address=127.0.0.1:0",
            "--admin-address=127.0.0.1:0",
        ]
        command += [f"--state-dir={self.folder / 'state'}", "--log-format=json", *self._flags]
        self.process = subprocess.Popen(
            command, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            self._readers.append(threading.Thread(target=self._read, args=(stream,)))
            self._readers[-1].start()
        if self._wait_ready:
            self._or_stop(lambda: self.wait_for("ready"))
        return self

    def stop(self, *signals: int, timeout: float | None = None) -> int:
        """Send the signals (default: SIGINT, which skips `drainDelay`) and return the exit code; kills when too slow."""
        if self.process.poll() is None:
            for number in signals or (signal.SIGINT,):
                self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code of a process that ends by itself; kills it and fails after `timeout` seconds."""
        try:
            return self.process.wait(self.timeout if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the sidecar did not stop\n" + self.tail()) from None
        finally:
            self.process.wait()
            for reader in self._readers:
                reader.join()

    async def astop(self, *signals: int, timeout: float | None = None) -> int:
        """`stop` while the loop goes on."""
        return await asyncio.to_thread(self.stop, *signals, timeout=timeout)

    # What it says

    def port(self, listener: str = "inbound") -> int:
        """The port of a listener of the document."""
        return self._port_of(self._ready()["listeners"][listener])

    @property
    def status_port(self) -> int:
        """Where /startupz /readyz /livez /metrics are."""
        return self._port_of(self._ready()["status"])

    @property
    def admin_port(self) -> int:
        """The admin surface's port."""
        return self._port_of(self._ready()["admin"])

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def events(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines so far with this `event` and these fields."""
        wanted = {"event": event, **fields}
        return [line for line in self.log if all(line.get(key) == value for key, value in wanted.items())]

    def wait_for(self, event: str, *, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until `count` such log lines have come; returns the last of them."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.events(event, **fields)) >= count or self._over(), self.timeout)
        found = self.events(event, **fields)
        if not came or len(found) < count:
            raise AssertionError(f"no log line {event} {fields or ''} (exit code {self.process.poll()})\n" + self.tail())
        return found[count - 1]

    async def await_for(self, event: str, *, count: int = 1, **fields: Any) -> dict[str, Any]:
        """`wait_for` while the loop goes on."""
        return await asyncio.to_thread(lambda: self.wait_for(event, count=count, **fields))

    def tail(self, lines: int = 40) -> str:
        """The last lines it printed."""
        return "\n".join(self.lines[-lines:])

    # What it is told

    def edit(self, document: Document) -> None:
        """Replace the document in one step, as an editor or Kubernetes does."""
        text = document if isinstance(document, str) else json.dumps(document)
        new = self.config.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.config)

    def apply(self, document: Document) -> dict[str, Any]:
        """`edit`, and wait until it is active; returns the log line."""
        return self._edit_and_wait(document, "config_applied")

    def refuse(self, document: Document) -> dict[str, Any]:
        """`edit`, and wait until it has been rejected; returns the log line."""
        return self._edit_and_wait(document, "config_rejected")

    async def aapply(self, document: Document) -> dict[str, Any]:
        """`apply` while the loop goes on."""
        return await asyncio.to_thread(self.apply, document)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._end()
        finally:
            self._folder.cleanup()
        if error is not None:
            error.add_note("the sidecar said:\n" + self.tail())
        elif any("Traceback (most recent call last)" in line for line in self.lines):
            raise AssertionError("the sidecar printed a traceback\n" + "\n".join(self.lines[-200:]))

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + 1.0
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        self.stop()

    def _or_stop(self, action: Any) -> None:
        try:
            action()
        except BaseException:
            self.process.kill()
            self.wait()
            self._folder.cleanup()
            raise

    def _edit_and_wait(self, document: Document, event: str) -> dict[str, Any]:
        before = len(self.events(event))
        self.edit(document)
        return self.wait_for(event, count=before + 1)

    def _ready(self) -> dict[str, Any]:
        line = self.wait_for("ready")
        applied = [entry for entry in self.events("config_applied") if "listeners" in entry]
        return {**line, "listeners": applied[-1]["listeners"]} if applied else line

    @staticmethod
    def _port_of(address: str) -> int:
        return int(address.rpartition(":")[2])

    def _over(self) -> bool:
        return self._streams_ended == len(self._readers)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._keep(line.rstrip("\n"))
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._streams_ended += 1
            self._changed.notify_all()

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if isinstance(entry, dict) and entry.get("culprit") != "starved":
            self.log.append(entry)

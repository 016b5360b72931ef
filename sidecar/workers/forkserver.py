"""The fork server: a process that does nothing but fork workers, so that a worker can be made at any time.

The main process has threads and an event loop, and must not fork. This one is forked off before it has them: with all
modules imported, whose memory workers then share (4 MiB of a worker's own instead of 19: docs/decisions/0018).
Should it ever die, another is started from the outside, whose workers share less.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import sidecar
from sidecar.errors import OutriderError
from sidecar.workers.channel import receive
from sidecar.workers.messages import Settings

_MESSAGE: Final = 4096
_FORK_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0
_POLL: Final = 0.01
_IMPORT_ROOT: Final = str(Path(sidecar.__file__).resolve().parent.parent)

Serve = Callable[[Settings, int, int, int], int]
"""What a worker does: workers.worker.serve."""


class ForkFailed(OutriderError):
    """No process could be made; the text says why."""


# -- the server


def run_server(control: socket.socket, serve: Serve) -> None:
    """Fork as told over `control`, until nobody is there any more; report what has ended. Returns in workers, too: see `exit_code`."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of the whole group, or of a terminal: the main process says what is to be done
        signal.signal(number, signal.SIG_IGN)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    gc.disable()  # it makes nothing, and a collection writes to pages, which are then shared no more
    poll = select.poll()
    for descriptor in (reader, control.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, _MESSAGE)
                _reap(control)
            elif not _obey(control, serve, (reader, writer)):
                return


def _reap(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _say(control, exited=ended[0], status=os.waitstatus_to_exitcode(ended[1]))


def _obey(control: socket.socket, serve: Serve, pipe: tuple[int, int]) -> bool:
    """Do what the next message says; False when there is nobody to send one."""
    try:
        data, descriptors, _ = receive(control, _MESSAGE, 3)
    except OSError:
        return False
    if not data:
        return False
    told = json.loads(data)
    try:
        pid = os.fork()
    except OSError as error:
        _say(control, failed=error.strerror)
    else:
        if not pid:
            _become_worker(told, descriptors, serve, control, pipe)
        _say(control, forked=pid)
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _become_worker(told: dict[str, Any], descriptors: Sequence[int], serve: Serve, control: socket.socket, pipe: tuple[int, int]) -> None:
    """In the new process; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for descriptor in pipe:
            os.close(descriptor)
        gc.enable()
        channel, turn, seats = descriptors
        code = serve(Settings(**told), channel, turn, seats)
    except BaseException:  # noqa: BLE001 - it cannot go further than this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say(control: socket.socket, **what: Any) -> None:
    with contextlib.suppress(OSError):
        control.send(json.dumps(what).encode())


def main() -> int:
    """A fork server that was not forked: `python -m sidecar.workers.forkserver DESCRIPTOR`."""
    from sidecar.workers.worker import serve  # noqa: PLC0415 - who imports this module may have no use for it

    run_server(socket.socket(fileno=int(sys.argv[1])), serve)
    return 0


# -- whoever has one


class ForkServer:
    """The main process's end. `start` before there is a thread or a loop, `attach` when there is a loop, `aclose` at the end."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._exited: Callable[[int, int], None] = lambda _pid, _status: None
        self._attached = False

    @classmethod
    def start(cls, serve: Serve) -> ForkServer:
        """Fork it off. Raises OSError."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # what has been imported is for good: collections need not look at it, in none of the processes
        pid = os.fork()
        if not pid:
            ours.close()
            try:
                run_server(its, serve)
            except BaseException:  # noqa: BLE001 - as above
                traceback.print_exc()
            finally:
                os._exit(0)
        its.close()
        return cls(ours, pid)

    def attach(self, exited: Callable[[int, int], None]) -> None:
        """`exited(pid, status)` is called for each worker that has ended; a negative status is a signal."""
        self._exited = exited
        self._listen()

    async def fork(self, settings: Settings, descriptors: Sequence[int]) -> int:
        """The pid of a new worker, which has the descriptors. Raises ForkFailed."""
        async with self._turn:
            if not self._attached:
                self._start_again()
            self._answer = asyncio.get_running_loop().create_future()
            told = json.dumps({name: getattr(settings, name) for name in settings.__struct_fields__})
            try:
                socket.send_fds(self._control, [told.encode()], list(descriptors))
                async with asyncio.timeout(_FORK_SECONDS):
                    answer = await self._answer
            except OSError as error:  # TimeoutError is one
                self._give_up()
                raise ForkFailed(f"no worker can be started: {error.strerror or 'the fork server does not answer'}") from error
            finally:
                self._answer = None
        if "forked" not in answer:
            raise ForkFailed(f"no worker can be started: {answer['failed']} (the sidecar needs more pids or memory)")
        return int(answer["forked"])

    async def aclose(self) -> None:
        """It ends when its socket does; workers that are left lose their parent, not their channel."""
        if self._attached:
            self._silence()
        self._control.close()
        deadline = asyncio.get_running_loop().time() + _END_SECONDS
        while not self._ended():
            if asyncio.get_running_loop().time() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            await asyncio.sleep(_POLL)

    def _ended(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def _listen(self) -> None:
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._readable)
        self._attached = True

    def _silence(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._attached = False

    def _readable(self) -> None:
        try:
            data = self._control.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        word = json.loads(data)
        if "exited" in word:
            self._exited(word["exited"], word["status"])
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(word)

    def _give_up(self) -> None:
        """Its answer, should it still come, would be taken for that to another question: the next one is another's."""
        if self._attached:
            self._silence()
        self._control.close()

    def _lost(self) -> None:
        self._silence()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result({"failed": "the fork server has ended"})

    def _start_again(self) -> None:
        """Workers of the one before live on. Raises ForkFailed."""
        self._ended()
        self._control.close()
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = (sys.executable, "-P", "-m", "sidecar.workers.forkserver", str(its.fileno()))
            try:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    command, pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": _IMPORT_ROOT}
                )
            except OSError as error:
                raise ForkFailed(f"no worker can be started: {error.strerror}") from error
        self._pid = self._process.pid
        self._listen()


if __name__ == "__main__":
    sys.exit(main())

"""What is looked at while a crowd is there: an honest client that goes on asking, and the proxy's memory and descriptors."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from bench import machine, peers

ASK_SECONDS = 5.0


class _Beside(ABC):
    """A thread that looks again and again, each `every` seconds, while it is open."""

    every: float

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self.every):
            self._look()

    @abstractmethod
    def _look(self) -> None: ...


class Look(_Beside):
    """Peaks of a process while it is open."""

    every = 0.05

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.rss = 0
        self.descriptors = 0
        self._pid = pid

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self.rss = max(self.rss, machine.rss_bytes(self._pid))
            self.descriptors = max(self.descriptors, descriptors(self._pid))


class Honest(_Beside):
    """Asks ten times a second on a connection of its own each time, and counts the answers that are 200."""

    every = 0.1

    def __init__(self, port: int) -> None:
        super().__init__()
        self.asked = 0
        self.answered = 0
        self._port = port

    def _look(self) -> None:
        self.asked += 1
        self.answered += peers.answers(self._port, ASK_SECONDS)


def descriptors(pid: int) -> int:
    """Open files of the tree."""
    return sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in machine.family(pid))

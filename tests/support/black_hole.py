"""A place where connecting takes for ever."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

from support.ports import free_port


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.2") -> Iterator[int]:
    """A port of `host` where a connect neither succeeds nor fails: a full backlog that nobody accepts from."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, free_port()))  # another address' server may want it, too
        listener.listen(0)
        for _ in range(64):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            if not select.select([], [filler], [], 0.1)[1]:
                break
        else:
            raise AssertionError("the backlog does not fill up here")
        yield listener.getsockname()[1]

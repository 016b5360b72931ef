"""Ports for what a test starts itself, and ports where nobody listens.

A bind to port 0 and every outgoing connection get their port from the kernel's ephemeral range, so a port of that range that
was free a moment ago may be anybody's by now. What listens on a port that it did not get by its own bind to port 0 (a program
that is told its port, a server that comes back on the one it had) asks here.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOWEST: Final = 10_000
"""Well-known ports, and those that people pick by hand, are mostly below."""
OURS: Final = frozenset({15001, 15002, 15020, 15021})
"""The sidecar's own default ports, which some tests listen on."""
ANYWHERE: Final = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def free_port() -> int:
    """A port that nobody uses on any address of this machine, outside the ephemeral range. A process gets each port once."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many of them, each another."""
    return [next(port for port in _left if _is_free(port)) for _ in range(count)]


@contextlib.contextmanager
def closed_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port of `host` that refuses connections, and that nobody else gets meanwhile: it is bound, and not listened on."""
    with socket.socket() as holder:
        holder.bind((host, 0))
        yield int(holder.getsockname()[1])


def _in_turn(ephemeral: range) -> list[int]:
    """All ports to hand out, from a random one on, so that processes side by side seldom try the same ones."""
    every = [port for port in range(LOWEST, 2**16) if port not in OURS]
    ports = [port for port in every if port not in ephemeral] or every  # a machine may use them all for connections
    first = random.SystemRandom().randrange(len(ports))  # Hypothesis seeds the module's own generator
    return ports[first:] + ports[:first]


def _ephemeral() -> range:
    """From which the kernel takes ports by itself."""
    lowest, highest = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    return range(int(lowest), int(highest) + 1)


def _is_free(port: int) -> bool:
    return all(_can_be_bound(family, host, port) for family, host in ANYWHERE)


def _can_be_bound(family: int, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return family == socket.AF_INET6 and error.errno in NO_IPV6
    return True


_left = iter(_in_turn(_ephemeral()))

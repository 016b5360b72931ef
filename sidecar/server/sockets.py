"""Listening sockets: how an address is written, opened, named and given back."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from sidecar.errors import OutriderError

BACKLOG: Final = 4096
"""Connections that the kernel holds for us, also while accepting is paused (it caps this at net.core.somaxconn)."""
UNIX: Final = "unix:"
_WORDS: Final = {
    errno.EADDRINUSE: "the address is in use by another process",
    errno.EADDRNOTAVAIL: "this machine does not have the address",
    errno.EACCES: "no permission to use the address",
    errno.EPERM: "no permission to use the address",
    errno.EAFNOSUPPORT: "the kernel does not support this kind of address",
    errno.ENOENT: "the folder of the socket does not exist",
    errno.ENOTDIR: "the folder of the socket does not exist",
    errno.EROFS: "the folder of the socket is read-only",
    errno.EMFILE: "no file descriptor is left",
    errno.ENOTSOCK: "the path exists and is not a socket",
}


class BindError(OutriderError):
    """A listening socket cannot be opened; the text is a clear sentence for whoever chose the address."""


class SocketAddress(Struct, frozen=True):
    """Where to listen: `host` (an IP address) and `port` (0: any free one), or `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> SocketAddress:
    """`HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`. Raises ValueError with the reason in words."""
    if text.startswith(UNIX):
        return _unix_address(text.removeprefix(UNIX))
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not an address (write HOST:PORT or unix:PATH)")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{port!r} is not a port (0 to 65535)")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("write an IPv6 address in brackets: [::1]:PORT")
    host = "127.0.0.1" if host == "localhost" else host
    _family(host)
    return SocketAddress(host, int(port))


def listener_address(bind: str, port: int) -> SocketAddress:
    """The address of a document's listener: `bind` is an IP address or `unix:PATH`. Raises BindError."""
    try:
        if bind.startswith(UNIX):
            return _unix_address(bind.removeprefix(UNIX))
        _family(bind)
    except ValueError as error:
        raise BindError(str(error)) from None
    return SocketAddress(bind, port)


def _unix_address(path: str) -> SocketAddress:
    if not path:
        raise ValueError("unix: needs a path")
    if len(os.fsencode(path)) > 107:
        raise ValueError("the path of a unix socket has at most 107 bytes")
    return SocketAddress(path=path)


def _family(host: str) -> socket.AddressFamily:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return family
    raise ValueError(f"{host!r} is not an IP address")


def open_socket(address: SocketAddress, *, mode: int | None = None, beside: tuple[socket.socket, ...] = ()) -> socket.socket:
    """A listening, non-blocking socket. `mode`: permissions of a unix socket's file. Raises BindError.

    `beside` are sockets of ours on the same port that are about to go (0.0.0.0 becomes 127.0.0.1): while the new one
    binds, they share the port with it. SO_REUSEPORT is not left on, or a second sidecar could take our connections.
    """
    try:
        if address.path:
            return _open_unix(address.path, mode)
        with _sharing(beside):
            return _open_tcp(address, share=bool(beside))
    except OSError as error:
        raise BindError(f"cannot listen on {address}: {_WORDS.get(error.errno or 0, error.strerror or str(error))}") from error


def _open_tcp(address: SocketAddress, *, share: bool) -> socket.socket:
    family = _family(address.host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux hands these down to accepted connections.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _sharing(sockets: tuple[socket.socket, ...]) -> Iterator[None]:
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


class _UnixSocket(socket.socket):
    """It knows its file from another that has come to the same path."""

    file: tuple[int, int] | None = None


def _file_at(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return found.st_dev, found.st_ino
    return None


def _open_unix(path: str, mode: int | None) -> socket.socket:
    _remove_stale(path)
    sock = _UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if mode is not None:
            with contextlib.suppress(OSError):  # Linux gives them to the file that bind makes: at no time does it have others
                os.fchmod(sock.fileno(), mode)
        sock.bind(path)
        sock.file = _file_at(path)
        if mode is not None and stat.S_IMODE(Path(path).stat().st_mode) != mode:  # before listen: until then nobody can connect
            Path(path).chmod(mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """A socket file outlives its process; one that nobody listens on may go. Raises OSError when somebody does."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.ENOTSOCK, "the path exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        else:
            raise OSError(errno.EADDRINUSE, "in use")


def close_socket(sock: socket.socket) -> None:
    """Close a listening socket; a unix socket's file goes too, unless another one has taken its place.

    The file goes first: when nobody listened on it, somebody who starts might take it for stale and put his own there.
    """
    path = sock.getsockname() if sock.family is socket.AF_UNIX else ""
    if path and (not isinstance(sock, _UnixSocket) or sock.file == _file_at(path)):
        with contextlib.suppress(OSError):
            Path(path).unlink()
    sock.close()


def bound_address(sock: socket.socket) -> SocketAddress:
    """Where `sock` really listens: port 0 has become a number."""
    name = sock.getsockname()
    return SocketAddress(path=name) if sock.family is socket.AF_UNIX else SocketAddress(name[0], name[1])

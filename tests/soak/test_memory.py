"""Memory of one exchange is bounded whatever the body's size and the peers' speeds (product.md 3.4): at most 256 KiB of ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024
SIZE = int(256 * float(os.environ.get("OUTRIDER_SOAK", "1.0"))) * 4 * MIB
ALLOWED_KIB = 256
STALL_SECONDS = 0.3
ZEROS = bytes(MIB)
TESTS = Path(__file__).parents[1]


def read_all(sock: socket.socket, size: int, *, stall: bool) -> None:
    """Read `size` bytes; `stall`: stop for a while in the middle, until every buffer on the way is full."""
    buffer, left = bytearray(MIB), size
    while left:
        count = sock.recv_into(buffer, min(left, MIB))
        assert count, f"{left} bytes missing"
        if stall and left > size // 2 >= left - count:
            time.sleep(STALL_SECONDS)
        left -= count


def write_all(sock: socket.socket, size: int) -> None:
    for start in range(0, size, MIB):
        sock.sendall(ZEROS[: min(MIB, size - start)])


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionResetError
        head += byte
    return head


def read_chunks(sock: socket.socket) -> int:
    total = 0
    with sock.makefile("rb", MIB) as stream:
        while size := int(stream.readline(), 16):
            total += size
            if total - size < SIZE // 8 <= total:
                time.sleep(STALL_SECONDS)
            assert len(stream.read(size + 2)) == size + 2
        stream.readline()
    return total


def sized(connection: socket.socket) -> None:
    """As much back as came."""
    while True:
        size = int(read_head(connection).lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        read_all(connection, size, stall=True)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        write_all(connection, size)


def chunked(connection: socket.socket) -> None:
    while True:
        read_head(connection)
        total = read_chunks(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(total // MIB):
            connection.sendall(b"%x\r\n%b\r\n" % (MIB, ZEROS))
        connection.sendall(b"0\r\n\r\n")


def send_sized(sock: socket.socket, size: int) -> None:
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    write_all(sock, size)
    read_head(sock)
    read_all(sock, size, stall=True)


def send_chunked(sock: socket.socket, size: int) -> None:
    sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(size // MIB):
        sock.sendall(b"%x\r\n%b\r\n" % (MIB, ZEROS))
    sock.sendall(b"0\r\n\r\n")
    read_head(sock)
    assert read_chunks(sock) == size


@contextmanager
def serving(play: Callable[[socket.socket], None]) -> Iterator[int]:
    """One connection at a time, in a thread; ends when nobody is connected any more."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    play(connection)
                except (OSError, ValueError, IndexError):
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def engine(port: int) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, str(TESTS / "soak" / "engine_process.py"), str(port)]
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate(timeout=10)


def ask(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.parametrize(
    ("play", "send", "size"), [(sized, send_sized, SIZE), (chunked, send_chunked, SIZE // 4)], ids=["content-length", "chunked"]
)
def test_a_gibibyte_each_way_with_slow_peers_takes_a_quarter_mebibyte(
    play: Callable[[socket.socket], None], send: Callable[[socket.socket, int], None], size: int
) -> None:
    with serving(play) as upstream_port, engine(upstream_port) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as sock:
            send(sock, MIB)  # everything is imported, the shared buffer is touched
            ask(process)
            idle = ask(process)
            send(sock, size)
            grown = ask(process) - idle
    assert grown <= ALLOWED_KIB, f"{grown} KiB"

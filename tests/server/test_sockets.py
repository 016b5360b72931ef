"""Listening sockets: addresses, refusals, what is left behind."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from support.ports import free_port

from sidecar.server.sockets import BindError, SocketAddress, bound_address, close_socket, listener_address, open_socket, parse_address

LOOPBACK = SocketAddress("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:15021", SocketAddress("0.0.0.0", 15021)),
        ("[::1]:80", SocketAddress("::1", 80)),
        ("localhost:0", SocketAddress("127.0.0.1", 0)),
        ("unix:/run/admin.sock", SocketAddress(path="/run/admin.sock")),
    ],
)
def test_an_address_is_written_as_host_and_port_or_as_a_unix_path(text: str, address: SocketAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "15021",
        ":15021",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٣",
        "::1:80",
        "example.com:80",
        "unix:",
        "unix:/" + "x" * 200,
    ],
)
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_an_address_reads_the_way_it_is_written() -> None:
    assert [str(parse_address(text)) for text in ("[::1]:80", "127.0.0.1:1", "unix:/a")] == ["[::1]:80", "127.0.0.1:1", "unix:/a"]


def test_port_0_takes_a_free_port_and_tells_which() -> None:
    with open_socket(LOOPBACK) as sock:
        assert bound_address(sock).port == sock.getsockname()[1] > 0


def test_a_port_in_use_is_refused_in_one_clear_sentence() -> None:
    with open_socket(LOOPBACK) as taken:
        address = bound_address(taken)
        with pytest.raises(BindError, match=f"^cannot listen on {address}: the address is in use"):
            open_socket(address)


def test_an_address_that_the_machine_does_not_have_is_refused_in_words() -> None:
    with pytest.raises(BindError, match="this machine does not have the address"):
        open_socket(SocketAddress("203.0.113.7", 0))


def test_a_bind_that_is_no_address_is_refused() -> None:
    with pytest.raises(BindError, match="not an IP address"):
        listener_address("orders.shop.svc", 80)


def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    with open_socket(SocketAddress("::", 0)) as sock:
        port = bound_address(sock).port
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=2).close()


def test_a_plain_ipv6_address_takes_ipv6_only() -> None:
    with open_socket(SocketAddress("::1", free_port())) as sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bound_address(sock).port), timeout=2)


def test_a_narrower_address_on_the_same_port_can_be_bound_beside_the_one_that_leaves() -> None:
    with open_socket(SocketAddress("0.0.0.0", 0)) as leaving:
        port = bound_address(leaving).port
        with open_socket(SocketAddress("127.0.0.1", port), beside=(leaving,)) as new:
            leaving.close()
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            new.accept()[0].close()


def test_sharing_a_port_is_not_left_on() -> None:
    with (
        open_socket(SocketAddress("0.0.0.0", 0)) as leaving,
        open_socket(SocketAddress("127.0.0.1", bound_address(leaving).port), beside=(leaving,)) as new,
    ):
        assert [sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in (leaving, new)] == [0, 0]


def test_a_unix_socket_has_the_permissions_asked_for_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    sock = open_socket(SocketAddress(path=str(path)), mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    close_socket(sock)
    assert not path.exists()


def test_the_file_of_a_unix_socket_never_has_other_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(_path: Path, _mode: int) -> None:
        raise AssertionError("too late: it had others until now, and the path may be another's")

    monkeypatch.setattr(Path, "chmod", chmod)
    before = os.umask(0)
    try:
        with open_socket(SocketAddress(path=str(tmp_path / "admin.sock")), mode=0o600):
            assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_socket_that_has_come_to_the_same_path_stays(tmp_path: Path) -> None:
    address = SocketAddress(path=str(tmp_path / "a.sock"))
    sock = open_socket(address)
    Path(address.path).unlink()
    with open_socket(address) as other:
        close_socket(sock)
        assert Path(address.path).exists()
        close_socket(other)
        assert not Path(address.path).exists()


def test_a_link_in_the_way_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "a.sock"
    live = open_socket(SocketAddress(path=str(tmp_path / "live")))
    victim.write_text("x")
    for target in (victim, tmp_path / "nothing", tmp_path / "live", link):
        link.symlink_to(target)
        with pytest.raises(BindError):
            open_socket(SocketAddress(path=str(link)), mode=0o600)
        assert link.readlink() == target
        link.unlink()
    assert (victim.read_text(), (tmp_path / "nothing").exists(), (tmp_path / "live").exists()) == ("x", False, True)
    close_socket(live)


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    close_socket(open_socket(SocketAddress(path=str(path))))


def test_a_unix_socket_in_use_is_not_taken_from_its_owner(tmp_path: Path) -> None:
    address = SocketAddress(path=str(tmp_path / "a.sock"))
    owner = open_socket(address)
    with pytest.raises(BindError, match="in use"):
        open_socket(address)
    close_socket(owner)


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(BindError):
        open_socket(SocketAddress(path=str(path)))
    assert path.read_text() == "x"


def test_a_unix_socket_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="the folder of the socket does not exist"):
        open_socket(SocketAddress(path=str(tmp_path / "no" / "a.sock")))

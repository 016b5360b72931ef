"""The ports that tests get: outside the kernel's own, free, and each only once."""

from __future__ import annotations

import socket

import pytest
from support import ports
from support.ports import closed_port, free_port, free_ports


def test_they_are_none_that_the_kernel_hands_out_itself_and_none_of_ours() -> None:
    ephemeral = ports._ephemeral()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in ephemeral
    assert not [port for port in ports._in_turn(range(20_000, 30_000)) if 20_000 <= port < 30_000 or port in ports.OURS or port < 10_000]
    assert set(free_ports(20)).isdisjoint(ephemeral)


def test_each_is_handed_out_once() -> None:
    given = [free_port(), *free_ports(50), free_port()]
    assert len(set(given)) == len(given)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"])
def test_one_that_is_in_use_on_any_address_is_passed_over(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used, free = free_ports(2)
    with socket.create_server((host, used), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
        monkeypatch.setattr(ports, "_left", iter((used, free)))
        assert free_port() == free


def test_processes_begin_at_places_of_their_own() -> None:
    turns = [ports._in_turn(ports._ephemeral()) for _ in range(8)]
    assert len({turn[0] for turn in turns}) > 1
    assert {frozenset(turn) for turn in turns} == {frozenset(turns[0])}


def test_a_machine_that_uses_every_port_for_connections_has_some_too() -> None:
    assert len(ports._in_turn(range(1024, 65_536))) > 50_000


def test_a_closed_port_refuses_and_cannot_be_taken() -> None:
    with closed_port() as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port)).close()

"""product.md 3.8: what the upstream is told about the client, for each mode, from peers that are believed and others."""

from __future__ import annotations

import uuid
from ipaddress import ip_network

import pytest
from behaviour_kit import live, playing
from support import answer, response
from support.wire import Message

from sidecar.model.snapshot import Forwarded

OK = answer(response(body=b"ok"))
TOLD = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\nX-Real-IP: 192.0.2.9\r\nForwarded: for=192.0.2.7\r\n"
NAMES = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded")
NOBODY: tuple[object, ...] = ()
LOOPBACK = (ip_network("127.0.0.0/8"),)
OURS = ("127.0.0.1", "http", "test", "127.0.0.1", None)
THEIRS = ("192.0.2.7", "https", "public.example", "192.0.2.9", "for=192.0.2.7")
NOTHING = (None,) * 5


def told(request: Message) -> tuple[str | None, ...]:
    for name in NAMES:
        assert len(request.get_all(name)) <= 1
    return tuple(request.get(name) for name in NAMES)


async def sent_on(mode: Forwarded, trusted: object, headers: str) -> Message:
    async with playing(OK, listener={"forwarded": mode, "trusted_proxies": trusted}) as (_, fake, client):
        assert (await client.request(headers=headers)).status == 200
        return fake.requests[0]


APPENDED = ("192.0.2.7, 127.0.0.1", "https", "public.example", "192.0.2.9", "for=192.0.2.7")


@live
@pytest.mark.parametrize("trusted", [None, LOOPBACK], ids=["unset", "listed"])
@pytest.mark.parametrize(
    ("mode", "expected"), [(Forwarded.APPEND, APPENDED), (Forwarded.SET, OURS), (Forwarded.PRESERVE, THEIRS), (Forwarded.OFF, NOTHING)]
)
async def test_what_a_believed_peer_says_is_appended_to_or_set_anew_or_preserved_or_removed(mode, expected, trusted):
    assert told(await sent_on(mode, trusted, TOLD)) == expected


@live
@pytest.mark.parametrize(
    ("mode", "expected"), [(Forwarded.APPEND, OURS), (Forwarded.SET, OURS), (Forwarded.PRESERVE, THEIRS), (Forwarded.OFF, NOTHING)]
)
async def test_what_any_other_peer_says_is_dropped_and_set_anew_except_that_preserve_holds_for_every_peer(mode, expected):
    assert told(await sent_on(mode, NOBODY, TOLD)) == expected


@live
@pytest.mark.parametrize("trusted", [None, LOOPBACK, NOBODY])
@pytest.mark.parametrize(
    ("mode", "expected"), [(Forwarded.APPEND, OURS), (Forwarded.SET, OURS), (Forwarded.PRESERVE, NOTHING), (Forwarded.OFF, NOTHING)]
)
async def test_a_request_that_says_nothing_gets_our_values_unless_we_touch_nothing(mode, expected, trusted):
    assert told(await sent_on(mode, trusted, "")) == expected


@live
async def test_x_real_ip_is_the_rightmost_address_of_the_chain_that_is_not_trusted():
    trusted = (*LOOPBACK, ip_network("10.0.0.0/8"))
    request = await sent_on(Forwarded.APPEND, trusted, "X-Forwarded-For: 198.51.100.1, 203.0.113.5, 10.1.1.1\r\n")
    assert request.get("x-real-ip") == "203.0.113.5"
    assert request.get("x-forwarded-for") == "198.51.100.1, 203.0.113.5, 10.1.1.1, 127.0.0.1"


@live
async def test_x_real_ip_is_the_peer_when_the_list_is_unset_and_the_header_absent():
    request = await sent_on(Forwarded.APPEND, None, "X-Forwarded-For: 198.51.100.1\r\n")
    assert request.get("x-real-ip") == "127.0.0.1"


@live
async def test_repeated_x_forwarded_for_lines_become_one_chain():
    request = await sent_on(Forwarded.APPEND, None, "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.5\r\n")
    assert request.get_all("x-forwarded-for") == ["198.51.100.1, 203.0.113.5, 127.0.0.1"]


@live
@pytest.mark.parametrize("given", ["abc", "A-Z_0.9:/+=@-", "x" * 128])
async def test_x_request_id_is_kept_from_believed_peers(given: str):
    assert (await sent_on(Forwarded.APPEND, None, f"X-Request-ID: {given}\r\n")).get("x-request-id") == given


@live
@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "\xe4", "a;b", "a,b", '"x"'])
async def test_otherwise_a_uuid_takes_its_place(given: str):
    async with playing(OK) as (_, fake, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + given.encode("latin-1") + b"\r\n\r\n")
        await client.read_response()
        values = fake.requests[0].get_all("x-request-id")
        assert len(values) == 1
        uuid.UUID(values[0])


@live
async def test_two_request_ids_are_none():
    values = (await sent_on(Forwarded.APPEND, None, "X-Request-ID: a\r\nX-Request-ID: b\r\n")).get_all("x-request-id")
    assert len(values) == 1
    uuid.UUID(values[0])


@live
async def test_an_untrusted_peers_request_id_is_replaced():
    values = (await sent_on(Forwarded.APPEND, NOBODY, "X-Request-ID: mine\r\n")).get_all("x-request-id")
    assert len(values) == 1
    uuid.UUID(values[0])


@live
@pytest.mark.parametrize("trusted", [None, NOBODY])
async def test_names_that_a_wsgi_server_would_take_for_ours_are_dropped_from_every_peer(trusted):
    sneaky = (
        "X_Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nX-Request_ID: evil\r\nx_request_timeout_ms: 1\r\nX_Forwarded-Proto: evil\r\n"
        "X_Forwarded_Client_Cert: evil\r\nX-Forwarded-Client_Cert: evil\r\n"
    )
    request = await sent_on(Forwarded.APPEND, trusted, sneaky)
    assert not [name for name, _ in request.fields if b"_" in name]
    assert not any(b"6.6.6.6" in value or b"evil" in value for _, value in request.fields)


@live
async def test_other_names_with_an_underscore_pass():
    assert (await sent_on(Forwarded.APPEND, None, "My_Header: 1\r\n")).get("my_header") == "1"


@live
async def test_a_chain_that_a_believed_peer_nominates_in_connection_stays():
    request = await sent_on(Forwarded.APPEND, None, "Connection: x-forwarded-for, x-real-ip, close\r\n" + TOLD)
    assert told(request) == APPENDED

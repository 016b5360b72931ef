"""Who may ask the admin surface, and what its answers never show."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
import uvloop
from admin_fakes import Caller, World, ask, served, served_unix
from support.client import RawClient

from sidecar.admin.guard import MAX_BODY


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:15020", "127.9.9.9", "[::1]:15020"])
def test_loopback_names_are_served(host: str) -> None:
    assert ask(World(), lambda caller: caller.send("GET", "/version", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "",
        "[::2]",
        "localhost,evil",
        "[::1].evil.example",
        "127.0.0.1:80@evil.example",
        "localhost:evil",
        "[localhost]",
        "localhost.",
        "2130706433",
        "127.1",
        "0.0.0.0",
    ],
)
def test_a_foreign_host_is_refused_with_a_clear_error(host: str) -> None:
    status, body, response = ask(World(), lambda caller: caller.send("GET", "/config", headers={"Host": host}))
    assert status in (400, 403)
    if status == 403:
        assert response.content_type == "application/problem+json"
        assert "Host" in body["detail"]


def test_a_request_without_host_is_refused() -> None:
    async def use(caller: Caller) -> int:
        async with await RawClient.open(caller.port) as client:
            await client.send(b"GET /config HTTP/1.0\r\n\r\n")
            return (await client.read_response()).status

    assert ask(World(), use) == 403


def test_two_hosts_are_refused() -> None:
    async def use(caller: Caller) -> int:
        async with await RawClient.open(caller.port) as client:
            await client.send(b"GET /config HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")
            return (await client.read_response()).status

    assert ask(World(), use) in (400, 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:15020", "null"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/config"), ("POST", "/drain"), ("POST", "/quitquitquit"), ("PUT", "/log-level"), ("OPTIONS", "/config")]
)
def test_a_request_with_an_origin_is_refused_and_changes_nothing(origin: str, method: str, path: str) -> None:
    world = World()
    status, body, response = ask(world, lambda caller: caller.send(method, path, headers={"Origin": origin}, data='{"level": "debug"}'))
    assert status == 403
    assert "Origin" in body["detail"]
    assert "Access-Control-Allow-Origin" not in response.headers
    assert (world.drains, world.quits, world.level) == (0, 0, "info")


def test_an_absolute_target_is_refused() -> None:
    async def use(caller: Caller) -> int:
        async with await RawClient.open(caller.port) as client:
            await client.send(b"GET http://evil.example/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return (await client.read_response()).status

    assert ask(World(), use) == 400


def test_any_host_is_served_on_a_unix_socket(tmp_path: Path) -> None:
    async def use(session: aiohttp.ClientSession) -> int:
        async with session.get("http://whatever.example/version") as response:
            return response.status

    assert uvloop.run(served_unix(World(), tmp_path / "admin.sock", use)) == 200


def test_the_address_that_was_bound_is_served_whatever_it_is() -> None:
    async def use(caller: Caller) -> int:
        return (await caller.send("GET", "/version"))[0]

    assert uvloop.run(served(World(), use, host="::1")) == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/drain", "POST"),
        ("GET", "/quitquitquit", "POST"),
        ("POST", "/config", "GET, HEAD"),
        ("DELETE", "/log-level", "GET, HEAD, PUT"),
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_other_methods_are_refused_with_those_that_are_possible(method: str, path: str, allowed: str) -> None:
    world = World()
    status, body, response = ask(world, lambda caller: caller.send(method, path))
    assert (status, response.headers["Allow"]) == (405, allowed)
    assert body["status"] == 405
    assert (world.drains, world.quits) == (0, 0)


def test_an_unknown_page_is_a_404_in_json() -> None:
    status, body, _ = ask(World(), lambda caller: caller.send("GET", "/etc/passwd"))
    assert (status, body["title"]) == (404, "Not Found")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_64_kib_is_refused(chunked: bool) -> None:
    world = World()

    async def pieces():
        for _ in range(3):
            yield b" " * (MAX_BODY // 2)

    async def use(caller: Caller) -> int:
        return (await caller.send("PUT", "/log-level", data=pieces() if chunked else b" " * (MAX_BODY + 1)))[0]

    assert ask(world, use) == 413
    assert world.level == "info"


@pytest.mark.expects_traceback("admin request failed")
def test_an_error_of_ours_shows_no_internals() -> None:
    world = World()
    world.recent = object()  # not JSON-ready
    status, body, response = ask(world, lambda caller: caller.send("GET", "/recent"))
    assert status == 500
    assert response.content_type == "application/problem+json"
    assert "object" not in str(body)
    assert "Traceback" not in str(body)


@pytest.mark.parametrize("path", ["/", "/config", "/nowhere"])
def test_every_answer_has_the_security_headers(path: str) -> None:
    _, _, response = ask(World(), lambda caller: caller.send("GET", path))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.expects_traceback("admin request failed")
def test_an_answer_that_fails_half_way_is_cut_and_never_looks_whole() -> None:
    world = World()
    world.recent = ["x" * 1000] * 200 + [object()]

    async def use(caller: Caller) -> None:
        with pytest.raises(aiohttp.ClientError):
            await caller.send("GET", "/recent")
        assert (await caller.send("GET", "/version"))[0] == 200

    ask(world, use)


def test_a_client_that_leaves_in_the_middle_is_no_error_of_ours() -> None:
    world = World()
    world.recent = ["x" * 1000] * 100_000

    async def use(caller: Caller) -> int:
        async with await RawClient.open(caller.port) as client:
            await client.send(b"GET /recent HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.read_head()
            client.reset()
        return (await caller.send("GET", "/version"))[0]

    assert ask(world, use) == 200

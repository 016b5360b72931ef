"""What goes out is what was asked for, and nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import uvloop
from contract_kit import Kind, Source, calling, every_kind, over_http1, until
from contract_peers import Served

TARGETS = [
    b"/",
    b"/?",
    b"/a/../b/./c",
    b"//evil.test/x",
    b"/a//b",
    b"/%2e%2F%41%zz%",
    b"/a|b^c`d{e}\\f",
    b"/a;b=c,d/!$&'()*+=:@~",
    b'/"<>"?x="<>"',
    b"/search?q=%20+%2B&q=&q",
    b"/?a=b?c=/d//",
    b"/" + b"x" * 7000,
]


@every_kind
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:24].decode())
def test_the_target_goes_out_byte_for_byte(kind: Kind, target: bytes) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask(b"GET", target)
            assert peer.served[0].target == target

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"QUERY", b"PROPFIND", b"get", b"X-!#"]
)
def test_the_method_goes_out_as_it_is(kind: Kind, method: bytes) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask(method)
            assert peer.served[0].method == method
            assert not [name for name, _ in peer.served[0].fields if name.lower() in (b"content-length", b"transfer-encoding")]

    uvloop.run(main())


@every_kind
def test_options_of_the_whole_server_keep_their_asterisk(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask(b"OPTIONS", b"*")
            assert peer.served[0].target == b"*"

    uvloop.run(main())


FIELDS = [
    (b"X-One", b"1"),
    (b"x-one", b"2"),
    (b"X-ONE", b"3"),
    (b"B", b"b"),
    (b"A", b"a"),
    (b"X-Empty", b""),
    (b"X-Latin", b"caf\xe9"),
    (b"X-Utf8", "café".encode()),
    (b"X-Not-Utf8", b"\xff\xfe"),
    (b"User-Agent", b"mine/1"),
    (b"Cookie", b"a=1"),
    (b"Authorization", b"Bearer x"),
    (b"If-None-Match", b'"1"'),
    (b"!#$%&'*+.^_`|~0aZ", b"token"),
]


@over_http1
@pytest.mark.parametrize("body", ["none", "length", "chunked"])
def test_fields_keep_order_case_repeats_and_bytes_and_nothing_is_added(kind: Kind, body: str) -> None:
    async def main() -> None:
        source = {"none": None, "length": Source(b"hello", length=5), "chunked": Source(b"hello")}[body]

        async def script(served: Served) -> None:
            assert await served.body() == (b"hello" if source else b"")
            await served.answer()

        framing = {"none": [], "length": [(b"Content-Length", b"5")], "chunked": [(b"Transfer-Encoding", b"chunked")]}[body]
        async with calling(kind, script) as (caller, peer):
            await caller.ask(b"POST", b"/", FIELDS, source)
            mine = [(b"Via", b"1.1 outrider")]
            expected = [(b"Host", b"upstream.test"), *FIELDS, *(framing + mine if body == "length" else mine + framing)]
            assert peer.served[0].fields == expected

    uvloop.run(main())


@every_kind
def test_nothing_is_added_to_a_request_without_fields(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask()
            assert peer.served[0].authority == b"upstream.test"
            assert [name.lower() for name, _ in peer.served[0].fields if name.lower() != b"host"] == [b"via"]

    uvloop.run(main())


@every_kind
def test_cookies_of_one_answer_do_not_go_out_with_the_next_request(kind: Kind) -> None:
    async def main() -> None:
        cookies = [(b"Set-Cookie", b"a=1; Path=/"), (b"Set-Cookie", b"b=2"), (b"set-cookie", b"not a cookie")]
        async with calling(kind, lambda served: served.answer(200, cookies)) as (caller, peer):
            for _ in range(2):
                answer = await caller.ask()
                assert [value for name, value in answer.fields if name.lower() == b"set-cookie"] == [value for _, value in cookies]
            assert not [name for served in peer.served for name, _ in served.fields if name.lower() == b"cookie"]

    uvloop.run(main())


@every_kind
def test_proxies_and_netrc_of_the_environment_are_not_looked_at(kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\nmachine upstream.test login me password secret\n")
    os.chmod(tmp_path / ".netrc", 0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask()
            assert not [name for name, _ in peer.served[0].fields if name.lower() == b"authorization"]

    uvloop.run(main())


@every_kind
def test_credentials_in_fields_pass_whatever_the_target_says(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, peer):
            await caller.ask(b"GET", b"/user:password@host/", [(b"Authorization", b"Basic eDp5")])
            assert {name.lower(): value for name, value in peer.served[0].fields}[b"authorization"] == b"Basic eDp5"

    uvloop.run(main())


@every_kind
def test_a_body_of_known_length_goes_out_whole(kind: Kind) -> None:
    async def main() -> None:
        pieces = [bytes([number % 251]) * 7919 for number in range(60)]
        whole = b"".join(pieces)

        async def script(served: Served) -> None:
            assert await served.body() == whole
            await served.answer()

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                await caller.ask(b"PUT", b"/", (), Source(*pieces, length=len(whole)))
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
def test_a_body_of_unknown_length_goes_out_with_its_trailers(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert await served.body() == b"one two"
            assert [(name.lower(), value) for name, value in served.trailers] == [(b"x-sum", b"7"), (b"x-sum", b"8")]
            await served.answer()

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                await caller.ask(b"POST", b"/", (), Source(b"one ", b"two", trailers=[(b"X-Sum", b"7"), (b"X-Sum", b"8")]))
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
def test_an_empty_body_of_unknown_length_is_a_body(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert await served.body() == b""
            await served.answer()

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                await caller.ask(b"POST", b"/", (), Source())
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
def test_the_head_goes_out_before_the_body_has_come(kind: Kind) -> None:
    async def main() -> None:
        heads = asyncio.Event()

        async def script(served: Served) -> None:
            heads.set()
            assert await served.body() == b"late"
            await served.answer()

        async with calling(kind, script) as (caller, _):
            source = Source(open_end=True)
            asking = asyncio.ensure_future(caller.ask(b"POST", b"/", (), source))
            await until(heads.is_set, "the server has the head")
            source.add(b"late")
            source.finish()
            assert (await asking).status == 200

    uvloop.run(main())

"""The reflector through the real client, over HTTP, against a scripted API server: what a real one cannot be made to do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from reflector_kit import ORDERS, Heard, Timed, assert_paced, config_map, following
from support.fake_kube import CUT, FOREVER, RESET, Answer, FakeKube, content, drip, error, event, listing, no_answer, raw, status, stream
from support.kube_client import client_of
from support.upstream import Connection

from sidecar.kube import client
from sidecar.kube import reflector as module
from sidecar.kube.objects import ENDPOINT_SLICES, Selection
from sidecar.kube.reflector import Reflector

FIRST = listing(5, config_map(5))
QUIET = stream(FOREVER)
BOOKMARK = {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": "8"}}}
SLACK = 1.0
"""A busy machine is late with one request and not with the next."""


@contextlib.asynccontextmanager
async def followed(
    tmp_path: Path, lists: Sequence[Answer], watches: Sequence[Answer], selection: Selection = ORDERS
) -> AsyncIterator[tuple[FakeKube, Reflector, Heard]]:
    async with FakeKube(lists, watches) as kube:
        async with client_of(kube.kubeconfig(tmp_path / "config")) as api:
            timed = Timed(api)
            async with following(timed, selection) as (reflector, heard):
                yield kube, reflector, heard
        assert_paced(timed.asked, slack=SLACK)
        assert len(kube.asked) <= len(timed.asked), "the client asks more often than it is told to"


def test_one_object_is_asked_for_by_field_selector_and_a_watch_with_bookmarks_and_an_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with followed(tmp_path, [FIRST], [QUIET]) as (kube, _, heard):
            await heard.until("changed", {"orders": "v5"})
            await _until(lambda: kube.of("watch"))
        first, watch = kube.asked
        assert first.path == watch.path == "/api/v1/namespaces/shop/configmaps"
        assert first.query == {"fieldSelector": "metadata.name=orders", "resourceVersion": "0"}
        assert 300 <= int(watch.query.pop("timeoutSeconds")) <= 600
        assert watch.query.pop("watch") in {"1", "true"}
        assert watch.query == {"fieldSelector": "metadata.name=orders", "resourceVersion": "5", "allowWatchBookmarks": "true"}

    asyncio.run(scenario())


def test_many_objects_are_asked_for_by_label_selector(tmp_path: Path) -> None:
    async def scenario() -> None:
        selection = Selection(ENDPOINT_SLICES, "shop", labels="kubernetes.io/service-name=orders")
        async with followed(tmp_path, [FIRST], [QUIET], selection) as (kube, _, heard):
            await heard.until("changed")
            await _until(lambda: kube.of("watch"))
        assert {request.path for request in kube.asked} == {"/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"}
        assert {request.query["labelSelector"] for request in kube.asked} == {"kubernetes.io/service-name=orders"}

    asyncio.run(scenario())


def test_a_list_that_asks_for_the_newest_has_no_resource_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with followed(tmp_path, [FIRST], [stream(error(410, "Expired")), QUIET]) as (kube, _, heard):
            await heard.until("changed", count=2)
        assert "resourceVersion" not in kube.of("list")[1].query

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        status(410, "Expired"),
        stream(error(410, "Expired")),
        stream(error(410, "Gone")),
        stream(error(500, "InternalError")),
        status(504, "Timeout", message="Too large resource version"),
        stream(b'{"type": "MODIFIED", "object": {"metad\n'),
        stream(b"[1, 2]\n"),
        stream(b'"words"\n'),
        stream(b'{"type": 7, "object": 8}\n'),
        stream(b'{"object": {}}\n'),
        stream(b'{"type": "MODIFIED"}\n'),
        stream(b"\xff\xfe\n"),
        stream(b"[" * 100_000 + b"\n"),
        stream(b'{"type": "MODIFIED", "object": {"metadata": {"name": "orders", "resourceVersion": "6"}, "data": {"x": "', *[b"y" * 1_000_000] * 20),
    ],
    ids=[
        "410",
        "410 in the stream",
        "410 Gone in the stream",
        "500 in the stream",
        "504",
        "half a line",
        "not an object",
        "a string",
        "types of another kind",
        "no type",
        "no object",
        "not UTF-8",
        "nested too deep",
        "a line of 20 MB",
    ],
)  # fmt: skip
def test_after_a_watch_that_cannot_be_trusted_the_newest_list_brings_the_truth(tmp_path: Path, answer: Answer) -> None:
    async def scenario() -> None:
        async with followed(tmp_path, [FIRST, listing(9, config_map(9))], [answer, QUIET]) as (kube, _, heard):
            await heard.until("changed", {"orders": "v9"}, seconds=20)
            await _until(lambda: len(kube.of("watch")) == 2)
        assert kube.of("watch")[1].query["resourceVersion"] == "9"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        stream(event("MODIFIED", config_map(6)), CUT),
        stream(event("MODIFIED", config_map(6)), b'{"type": "MODIFIED", "obj', CUT),
        stream(event("MODIFIED", config_map(6)), RESET),
        stream(event("MODIFIED", config_map(6))),
    ],
    ids=["FIN in the stream", "FIN in a line", "reset", "the agreed end"],
)
def test_a_watch_that_ends_after_a_line_is_continued_from_there(tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART_SECONDS", 1.0)

    async def scenario() -> None:
        async with followed(tmp_path, [FIRST], [answer, stream(event("MODIFIED", config_map(7)), FOREVER)]) as (kube, _, heard):
            await heard.until("changed", {"orders": "v7"})
        assert [request.query["resourceVersion"] for request in kube.of("watch")] == ["5", "6"]
        assert len(kube.of("list")) == 1
        assert "lost" not in heard.kinds

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer", [stream(BOOKMARK, FOREVER), stream(BOOKMARK, b"\n", FOREVER), drip(b'{"type": "MODIFIED", "object": {"metadata": {' * 9, pause=0.05)],
    ids=["half open", "an empty line", "a line that drips in"],
)  # fmt: skip
def test_a_connection_that_tells_nothing_is_given_up(tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.5)
    monkeypatch.setattr(module, "APART_SECONDS", 0.0)

    async def scenario() -> None:
        watches = [answer, stream(event("MODIFIED", config_map(9)), FOREVER)]
        async with followed(tmp_path, [FIRST], watches) as (kube, reflector, heard):
            await heard.until("changed", {"orders": "v9"}, seconds=10)
            assert reflector.status.restarts == {"silent": 1}
            assert await _closed_by_the_client(kube.connections[0])
        assert "lost" not in heard.kinds

    asyncio.run(scenario())


def test_a_line_may_come_in_any_pieces_and_several_in_one(tmp_path: Path) -> None:
    lines = b"".join(
        b'{"type":"MODIFIED","object":{"metadata":{"name":"orders","resourceVersion":"%d"},"data":{"text":"\xc3\xa4%d"}}}\n' % (n, n)
        for n in (6, 7)
    )

    async def scenario() -> None:
        watches = [stream(lines[:10], 0.05, lines[10:105], 0.05, lines[105:], FOREVER)]
        async with followed(tmp_path, [FIRST], watches) as (_, _, heard):
            await heard.until("changed", {"orders": "ä7"})
        assert heard.states[1:] == [{"orders": "ä6"}, {"orders": "ä7"}]

    asyncio.run(scenario())


def test_the_largest_config_map_there_can_be_comes_through(tmp_path: Path) -> None:
    text = "\x01" * (1024 * 1024)  # six bytes each in JSON

    async def scenario() -> None:
        async with followed(tmp_path, [FIRST], [stream(event("MODIFIED", config_map(6, text)), FOREVER)]) as (_, _, heard):
            await heard.until("changed", {"orders": text}, seconds=20)

    asyncio.run(scenario())


STORMS: dict[str, tuple[Answer, Answer]] = {
    "429": (status(429, "TooManyRequests"), status(429, "TooManyRequests")),
    "429 for the watch, Retry-After 0": (FIRST, status(429, "TooManyRequests", retry_after="0")),
    "429, Retry-After is no number": (status(429, "TooManyRequests", retry_after="soon"), QUIET),
    "401": (status(401, "Unauthorized"), status(401, "Unauthorized")),
    "403 for the watch": (FIRST, status(403, "Forbidden")),
    "404": (status(404, "NotFound"), QUIET),
    "500 without a Status": (raw(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"), QUIET),
    "503 for the watch": (FIRST, status(503, "ServiceUnavailable")),
    "a redirect": (raw(b"HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"), QUIET),
    "410 for each watch": (FIRST, status(410, "Expired")),
    "watches that end at once": (FIRST, stream()),
    "watches that are cut at once": (FIRST, stream(CUT)),
    "truncated lines": (FIRST, stream(b'{"type', CUT)),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), QUIET),
    "not JSON": (content(b"<html>"), QUIET),
    "a list of something else": (content([1, 2]), QUIET),
}


def test_in_each_storm_a_request_of_the_reflector_is_one_request_on_the_wire_at_the_pace(tmp_path: Path) -> None:
    async def scenario(name: str, lists: Answer, watches: Answer) -> None:
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        try:
            began = time.monotonic()
            async with followed(folder, [lists], [watches]) as (kube, _, heard):
                await asyncio.sleep(4)
                assert len(kube.asked) <= time.monotonic() - began + 2
                await _until(lambda: len(kube.asked) >= 3, "it does not go on asking")
                kube.lists, kube.watches = [listing(9, config_map(9))], [stream(event("MODIFIED", config_map(10)), FOREVER)]
                await heard.until("changed", {"orders": "v10"}, seconds=15)
                assert heard.kinds.count("lost") <= 1
        except BaseException as error:
            error.add_note(f"storm: {name}")
            raise

    async def all_at_once() -> None:
        async with asyncio.TaskGroup() as group:
            for name, (lists, watches) in STORMS.items():
                group.create_task(scenario(name, lists, watches))

    asyncio.run(all_at_once())


def test_a_server_that_accepts_and_never_answers_is_an_outage_within_the_clients_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LIST_SECONDS", 1.0)

    async def scenario() -> None:
        async with followed(tmp_path, [no_answer()], [QUIET]) as (_, reflector, heard):
            await heard.until("lost", seconds=30)
            assert reflector.status.requests == {("list", "unreachable"): 1}

    asyncio.run(scenario())


def test_a_new_token_in_the_file_is_used_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def scenario() -> None:
        async with FakeKube([FIRST], [QUIET], authorize={"new"}) as kube:
            async with client_of(kube.kubeconfig(tmp_path / "config", tokenFile=str(token))) as api, following(api) as (_, heard):
                await heard.until("lost")
                assert "the token is not accepted" in heard.messages[0]
                token.write_text("new")
                await heard.until("changed", seconds=10)
                await _until(lambda: kube.of("watch"))
            assert {request.token for request in kube.asked} == {"old", "new"}
            assert_paced([request.at for request in kube.asked], slack=SLACK, burst=3)

    asyncio.run(scenario())


def test_tokens_that_change_with_every_request_and_are_refused_do_not_break_the_pace(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0")
    numbers = itertools.count(1)

    async def refuse(connection: Connection) -> None:
        token.write_text(str(next(numbers)))
        await status(401, "Unauthorized")(connection)

    async def scenario() -> None:
        async with FakeKube([refuse], [QUIET]) as kube:
            async with client_of(kube.kubeconfig(tmp_path / "config", tokenFile=str(token))) as api, following(api):
                await asyncio.sleep(6)
            assert len({request.token for request in kube.asked}) >= 4
            assert_paced([request.at for request in kube.asked], slack=SLACK, burst=3)

    asyncio.run(scenario())


def test_no_message_for_people_holds_the_token_or_an_object(tmp_path: Path) -> None:
    async def scenario(answer: Answer) -> list[str]:
        config = tmp_path / "config"
        async with FakeKube([answer], [QUIET]) as kube:
            async with client_of(kube.kubeconfig(config, token="TOPSECRET")) as api, following(api) as (_, heard):
                await heard.until("lost")
        return heard.messages

    for answer in (content(b'{"data": {"password": "TOPSECRET"'), content({"items": [{"data": "TOPSECRET"}]}), status(401, "Unauthorized")):
        assert "TOPSECRET" not in str(asyncio.run(scenario(answer)))


async def _closed_by_the_client(connection: Connection) -> bool:
    try:
        return await connection.read_until_close() == b""
    except ConnectionError:
        return True


async def _until(holds, message: str = "in vain", seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, message
        await asyncio.sleep(0.01)

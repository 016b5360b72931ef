"""The client against what a real API server cannot be made to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from support.fake_kube import Answer, FakeKube, content, listing, no_answer, raw, status, stream
from support.kube_client import client_of
from support.upstream import response

from sidecar.kube import answers, client
from sidecar.kube.api import ApiError, BadAnswer, KubeError, Unreachable
from sidecar.kube.client import LeanClient
from sidecar.kube.objects import CONFIG_MAPS, EVENTS, Selection, WatchEvent

MAPS = Selection(CONFIG_MAPS, "shop")
TOKEN = "the-token-itself"
BOOKMARK = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}


@asynccontextmanager
async def asked(folder: Path, lists: Answer, watches: Answer | None = None) -> AsyncIterator[tuple[LeanClient, FakeKube]]:
    async with asyncio.timeout(30), FakeKube([lists], [watches or stream()]) as kube:
        async with client_of(kube.kubeconfig(folder / "config", token=TOKEN)) as made:
            yield made, kube


def refusal(folder: Path, answer: Answer) -> KubeError:
    """How a list fails that is answered so."""

    async def scenario() -> KubeError:
        async with asked(folder, answer) as (made, _):
            with pytest.raises(KubeError) as failed:
                await made.list(MAPS)
            return failed.value

    error = asyncio.run(scenario())
    assert TOKEN not in str(error)
    return error


def test_a_429_says_how_long_to_stay_away(tmp_path: Path) -> None:
    error = refusal(tmp_path, status(429, "TooManyRequests", retry_after="17"))

    assert isinstance(error, ApiError)
    assert (error.status, error.retry_after) == (429, 17.0)


def test_a_redirection_is_not_followed_with_our_token(tmp_path: Path) -> None:
    error = refusal(tmp_path, raw(response("302 Found", b"", "Location: http://127.0.0.1:1/\r\n")))

    assert isinstance(error, BadAnswer)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (raw(b"220 mail.example ESMTP\r\n\r\n"), BadAnswer),
        (content(b"<html>"), BadAnswer),
        (content([]), BadAnswer),
        (content({"items": []}), BadAnswer),
        (raw(response(body=b"\x1f\x8b\x08", headers="Content-Encoding: gzip\r\n")), BadAnswer),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), Unreachable),
    ],
    ids=["not HTTP", "not JSON", "no object", "no list", "compressed", "stuck"],
)
def test_what_is_no_answer_of_an_api_server_is_said(
    tmp_path: Path, answer: Answer, kind: type[KubeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LIST_SECONDS", 1.0)

    assert isinstance(refusal(tmp_path, answer), kind)


def test_a_list_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_LIST", 100_000)

    assert "larger than 100000 bytes" in str(refusal(tmp_path, stream(*[b"x" * 60_000] * 5, 60.0)))


def test_an_endless_refusal_is_given_up(tmp_path: Path) -> None:
    large = raw(response("500 Oh", b"x" * (answers.MAX_REFUSAL + 1)))

    assert isinstance(refusal(tmp_path, large), BadAnswer)


@pytest.mark.parametrize(
    ("limit", "request_"),
    [
        ("LIST_SECONDS", lambda made: made.list(MAPS)),
        ("OPEN_SECONDS", lambda made: anext(made.watch(MAPS, resource_version="1", timeout_seconds=60))),
        ("WRITE_SECONDS", lambda made: made.create(EVENTS, "shop", {})),
        ("WRITE_SECONDS", lambda made: made.patch(EVENTS, "shop", "x", {})),
    ],
    ids=["list", "watch", "create", "patch"],
)
def test_every_request_has_a_time_limit(
    tmp_path: Path, limit: str, request_: Callable[[LeanClient], asyncio.Future[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, limit, 0.3)

    async def scenario() -> None:
        async with asked(tmp_path, no_answer(), no_answer()) as (made, _):
            with pytest.raises(Unreachable, match=r"127.0.0.1:[0-9]+ has not answered within 0.3 s"):
                await request_(made)

    asyncio.run(scenario())


async def to_its_end(watch: AsyncIterator[WatchEvent]) -> None:
    async for _ in watch:
        pass


def test_a_watch_that_talks_for_ever_ends_a_little_after_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WATCH_EXTRA_SECONDS", 0.0)
    chatter = stream(*[step for _ in range(200) for step in (BOOKMARK, 0.1)])

    async def scenario() -> None:
        async with asked(tmp_path, listing(1), chatter) as (made, _):
            watch = made.watch(MAPS, resource_version="1", timeout_seconds=1)
            with pytest.raises(Unreachable, match="within 1 s"):
                await to_its_end(watch)

    asyncio.run(scenario())


def test_a_watch_that_is_left_closes_its_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asked(tmp_path, listing(1), stream(BOOKMARK, 0.01, BOOKMARK, 60.0)) as (made, kube):
            for _ in range(3):
                async with aclosing(made.watch(MAPS, resource_version="1", timeout_seconds=60)) as watch:
                    await anext(watch)
                    await anext(watch)
            assert len(made._session.connector._acquired) == 0  # type: ignore[union-attr]
            assert len(kube.of("watch")) == 3

    asyncio.run(scenario())


def test_requests_are_as_the_api_expects_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asked(tmp_path, content({})) as (made, kube):
            await made.create(EVENTS, "shop", {"a": 1})
            await made.patch(EVENTS, "shop", "x", {"a": 2})
        created, patched = kube.asked
        assert (created.verb, created.path) == ("POST", "/apis/events.k8s.io/v1/namespaces/shop/events")
        assert (patched.verb, patched.path) == ("PATCH", "/apis/events.k8s.io/v1/namespaces/shop/events/x")
        assert patched.message.get("content-type") == "application/merge-patch+json"
        assert created.query == patched.query == {"fieldManager": "outrider"}
        for request in kube.asked:
            assert request.message.get("accept-encoding") == "identity"
            assert (request.message.get("user-agent") or "").startswith("outrider/")
            assert request.token == TOKEN

    asyncio.run(scenario())

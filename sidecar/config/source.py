"""The ConfigSource seam: where documents come from (a file, a ConfigMap), the mailbox in between, and who wins when there are both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from sidecar.config.store import ConfigStore, Outcome, Result


class Offer(NamedTuple):
    """A document as a source found it."""

    source: str
    revision: str
    data: bytes
    origin: str = ""
    """Which object it came from, where the same source may follow another one tomorrow; kept with the last good document."""
    uid: str = ""
    """That object's `metadata.uid`."""


class Unavailable(NamedTuple):
    """A source cannot be read; `message` is a sentence for people."""

    source: str
    message: str


News = Offer | Unavailable
Hear = Callable[[News, Outcome | None], None]
"""Told of all news and what became of them; None: no document, or one that did not count. Quick, raises nothing."""


class Mailbox:
    """Holds the newest document of each source and the trouble since: what was not fetched in time is of no interest any more."""

    def __init__(self) -> None:
        self._news: dict[tuple[str, type], News] = {}
        self._there = asyncio.Event()
        self._last: dict[str, News] = {}
        """What each source has said last."""

    def put(self, news: News) -> None:
        """Leave news. A document takes the place of all that its source had to tell; trouble does not take back a document."""
        self._last[news.source] = news
        kinds = (Offer, Unavailable) if isinstance(news, Offer) else (Unavailable,)
        for kind in kinds:
            self._news.pop((news.source, kind), None)
        self._news[news.source, type(news)] = news
        self._there.set()

    def put_again(self, offer: Offer) -> None:
        """Leave a document once more, unless its source has said anything since."""
        if self._last.get(offer.source) is offer:
            self.put(offer)

    async def get(self) -> News:
        """Wait for news and take those that have waited longest."""
        await self._there.wait()
        news = self._news.pop(next(iter(self._news)))
        if not self._news:
            self._there.clear()
        return news


class ConfigSource(Protocol):
    """Follows a document until it is cancelled."""

    name: str
    """`file` or `configmap`."""

    async def run(self, mailbox: Mailbox) -> None:
        """Put what is there at once, and every change after. Errors of the outside become `Unavailable`."""
        ...


class FirstLook:
    """Ends when a document is active, or when every source has had its say."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._said = {source: asyncio.Event() for source in sources}
        self._ended = asyncio.Event()
        if not self._said:
            self._ended.set()

    def hear(self, news: News, outcome: Outcome | None) -> None:
        """See `Hear`."""
        self._said[news.source].set()
        if all(said.is_set() for said in self._said.values()) or (outcome is not None and outcome.result is not Result.REJECTED):
            self._ended.set()

    async def wait(self, seconds: float | None) -> None:
        """Until it has ended, but no longer than `seconds` (None: however long the sources take)."""
        await _wait(self._ended, seconds)

    async def said(self, source: str, seconds: float) -> None:
        """Until this source has had its say and its document, if it has one, is in force; no longer than `seconds`."""
        await _wait(self._said[source], seconds)


async def _wait(until: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return


async def feed(mailbox: Mailbox, store: ConfigStore, *, hear: Sequence[Hear] = (), winner: str = "") -> None:
    """Carry news to the store until cancelled, and tell `hear`.

    `winner` is the source whose word is newer by nature: from its first document on those of others count no more,
    unless nothing is active. Deleting its document does not bring another's back.
    """
    won = False
    while True:
        news = await mailbox.get()
        outcome = None
        if isinstance(news, Unavailable):
            store.unavailable(news.source, news.message)
        elif won and news.source != winner and store.active is not None:
            store.reachable(news.source)
        else:
            outcome = await store.offer(news.source, news.revision, news.data, origin=news.origin)
            won = won or news.source == winner
        for listener in hear:
            listener(news, outcome)

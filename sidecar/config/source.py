"""The ConfigSource seam: where documents come from (a file; later a ConfigMap), and the one-slot mailbox in between."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from sidecar.config.store import ConfigStore, Outcome


class Offer(NamedTuple):
    """A document as a source found it."""

    source: str
    revision: str
    data: bytes


class Unavailable(NamedTuple):
    """A source cannot be read; `message` is a sentence for people."""

    source: str
    message: str


class Mailbox:
    """Holds the newest news only: what was not fetched in time is of no interest any more."""

    def __init__(self) -> None:
        self._news: Offer | Unavailable | None = None
        self._there = asyncio.Event()

    def put(self, news: Offer | Unavailable) -> None:
        """Leave news, in the place of any that was not fetched."""
        self._news = news
        self._there.set()

    async def get(self) -> Offer | Unavailable:
        """Wait for news and take them."""
        await self._there.wait()
        self._there.clear()
        news = self._news
        assert news is not None
        self._news = None
        return news


class ConfigSource(Protocol):
    """Follows a document until it is cancelled."""

    name: str
    """`file` or `configmap`."""

    async def run(self, mailbox: Mailbox) -> None:
        """Put what is there at once, and every change after. Errors of the outside become `Unavailable`."""
        ...


async def feed(mailbox: Mailbox, store: ConfigStore, first: asyncio.Future[Outcome | None] | None = None) -> None:
    """Carry news to the store until cancelled. `first` gets what the first look led to; None: nothing could be read."""
    while True:
        news = await mailbox.get()
        if isinstance(news, Unavailable):
            store.unavailable(news.source, news.message)
            outcome = None
        else:
            outcome = await store.offer(news.source, news.revision, news.data)
        if first is not None and not first.done():
            first.set_result(outcome)

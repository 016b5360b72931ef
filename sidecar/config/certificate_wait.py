"""A document that was refused for want of a certificate's file is offered again when its files are there and good.

What counts is what the files hold, not what happened to them (docs/decisions/0039). A newer document of the same source ends the
wait for the older one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from time import monotonic
from typing import Final, NamedTuple

from sidecar.config.certificate_files import CertificateFiles, FollowedFile
from sidecar.config.source import Mailbox, News, Offer
from sidecar.config.store import Outcome
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.store import Reference, in_file, references

AGAIN_SECONDS: Final = 1.0
"""At least so long between two offers: each of them costs as much as a reload."""
AGAIN_MAX_SECONDS: Final = 60.0
_Held = tuple[str, ...]
"""Digests of what the files of a document hold."""


class _Try(NamedTuple):
    """A document that was offered again, with what its files held, and how often so."""

    offer: Offer
    held: _Held
    times: int


class CertificateWait:
    """`hear` is told what became of each document (`source.Hear`)."""

    def __init__(self, mailbox: Mailbox, files: CertificateFiles | None = None) -> None:
        self._mailbox = mailbox
        self._files = CertificateFiles(quiet=True) if files is None else files
        self._waits: dict[str, asyncio.Task[None]] = {}
        """By source."""
        self._tried: dict[str, _Try] = {}
        """By source."""
        self._offered_at = -AGAIN_SECONDS

    def hear(self, news: News, outcome: Outcome | None) -> None:
        """See `source.Hear`."""
        if (wait := self._waits.pop(news.source, None)) is not None:
            wait.cancel()
        named = _wanting(outcome)
        if named and isinstance(news, Offer):
            self._waits[news.source] = create_task(self._wait(news, named), name=f"certificates for {news.source}")
        else:
            self._tried.pop(news.source, None)

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        await cancel_and_wait(self._waits.values())
        await self._files.aclose()

    async def _wait(self, offer: Offer, named: Iterable[Reference]) -> None:
        changed = asyncio.Event()
        followed = [self._files.follow(reference, changed.set) for reference in dict.fromkeys(named)]
        try:
            await asyncio.gather(*(one.settled() for one in followed))
            while True:
                changed.clear()
                held = _held(followed)
                times = self._times(offer, held)
                pause = self._offered_at + pause_after(times) - monotonic() if held else None
                if pause is not None and pause <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
        finally:
            for one in followed:
                one.close()
        self._offered_at = monotonic()
        self._tried[offer.source] = _Try(offer, held, times + 1)
        self._mailbox.put_again(offer)

    def _times(self, offer: Offer, held: _Held) -> int:
        tried = self._tried.get(offer.source)
        return tried.times if tried is not None and (tried.offer, tried.held) == (offer, held) else 0


def pause_after(times: int) -> float:
    """Seconds to the next offer of a document that was refused so often with the very same files, good as they look from here."""
    return min(AGAIN_SECONDS * 2.0 ** min(times, 16), AGAIN_MAX_SECONDS)


def _wanting(outcome: Outcome | None) -> list[Reference]:
    """The files that a refused document names, if one of them is why it was refused."""
    if outcome is None or outcome.refused is None:
        return []
    named = {path: reference for path, reference in references(outcome.refused) if in_file(reference)}
    if any(problem.path in named for problem in outcome.problems):
        return [reference for _, reference in references(outcome.refused) if in_file(reference)]
    return []


def _held(followed: Iterable[FollowedFile]) -> _Held:
    """Empty while one of them is missing or no good."""
    digests = [one.value.digest if one.value is not None and not one.problem else "" for one in followed]
    return tuple(digests) if all(digests) else ()

"""Posting Events: within what Kubernetes' own components allow themselves, patiently while the API server is away, never in anybody's way."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from sidecar.kube.api import ApiError, BadAnswer, KubeApi, KubeError
from sidecar.kube.objects import EVENTS, Json

BURST: Final = 25
REFILL_SECONDS: Final = 300.0
"""At most 25 Events in a row and one every five minutes after (what Kubernetes' own components allow themselves)."""
TRIES: Final = 8
RETRY_SECONDS: Final = (1.0, 60.0)
REQUEST_SECONDS: Final = 15.0
MAX_NOTE: Final = 1024
"""Bytes; the API server refuses longer notes."""


class EventPost:
    """Sends Events one after the other. `refused` is told when the API server says no for good."""

    def __init__(self, refused: Callable[[ApiError], None]) -> None:
        self._refused = refused
        self._bucket = _Bucket()
        self.written: Counter[str] = Counter()
        """Events by what became of them: `written exists refused dropped`."""

    async def send(self, api: KubeApi, namespace: str, body: Json) -> None:
        """Send one, again and again while the API server is away or busy; dropped when there were too many."""
        if not self._bucket.take(asyncio.get_running_loop().time()):
            self.written["dropped"] += 1
            return
        wait, longest = RETRY_SECONDS
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await api.create(EVENTS, namespace, body)
            except ApiError as error:
                if error.status == 409:
                    self.written["exists"] += 1
                    return
                if error.status != 429 and error.status < 500:
                    self._refused(error)
                    self.written["refused"] += 1
                    return
                pause = max(wait, error.retry_after or 0.0)
            except BadAnswer:  # it has been stored, or it never will be
                self.written["dropped"] += 1
                return
            except (KubeError, TimeoutError):
                pause = wait
            else:
                self.written["written"] += 1
                return
            await asyncio.sleep(min(pause, longest) * random.uniform(1.0, 1.5))
            wait = min(wait * 2, longest)
        self.written["dropped"] += 1


class _Bucket:
    """A token bucket: `BURST` at once, then one every `REFILL_SECONDS`."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(float(BURST), self._tokens + (now - self._at) / REFILL_SECONDS)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def cut_note(text: str, limit: int = MAX_NOTE) -> str:
    """At most `limit` bytes of UTF-8, never half a character."""
    encoded = text.encode("utf-8", "replace")
    return encoded.decode() if len(encoded) <= limit else encoded[: limit - 3].decode("utf-8", "ignore") + "..."

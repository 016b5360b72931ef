"""How long a server keeps idle connections, learned from what it does and says. Pure: the caller brings the time."""

from __future__ import annotations

from typing import Final

from sidecar.policy.deadline import NEVER

MARGIN_SHARE: Final = 0.2
MARGIN_MIN: Final = 0.2
"""Stay below the server's limit by a fifth of it, at least by this many seconds: its FIN needs time to reach us."""
UNCONFIRMED_FOR: Final = 60.0
CONFIRMED_FOR: Final = 600.0
"""Seconds until a lesson is forgotten and the configured limit is tried again: once seen, or seen repeatedly."""
PLAUSIBLE: Final = 0.5
"""No server has a shorter idle limit; one that ends a younger connection is stopping."""
SAME_MOMENT: Final = 0.05
"""Connections that end within this many seconds of one another ended for one reason."""


class KeepAlive:
    """What one upstream's server was seen to do with idle connections.

    A server with an idle limit closes connections of about the same age. One that stops closes all of them at once,
    whatever their age: two ages at one moment teach nothing, and what the first of them had taught is withdrawn.
    """

    __slots__ = ("_before", "_forget_at", "_header", "_last_age", "_last_at", "_learned", "_stopping", "enabled", "idle_timeout")

    def __init__(self, idle_timeout: float, *, enabled: bool) -> None:
        self.idle_timeout = idle_timeout
        """Configured limit, seconds; 0.0: none."""
        self.enabled = enabled
        self._learned = NEVER
        self._forget_at = NEVER
        self._header = NEVER
        self._last_age = NEVER
        self._last_at = -NEVER
        self._before = (NEVER, NEVER)
        """What was known before the moment of the last closes."""
        self._stopping = False

    def closed_by_server(self, age: float, now: float) -> None:
        """The server ended a connection that had been idle for `age` seconds."""
        if not self.enabled:
            return
        self._expire(now)
        alike = _alike(age, self._last_age)
        if now - self._last_at > SAME_MOMENT:
            self._before, self._stopping = (self._learned, self._forget_at), False
            forget_at = now + (CONFIRMED_FOR if alike else UNCONFIRMED_FOR)
        else:
            self._stopping = self._stopping or not alike
            forget_at = now + UNCONFIRMED_FOR if self._forget_at == NEVER else self._forget_at
        self._last_age, self._last_at = age, now
        if self._stopping:
            self._learned, self._forget_at = self._before
        elif age >= PLAUSIBLE:
            self._learned, self._forget_at = min(self._learned, age), forget_at

    def announced(self, seconds: float) -> None:
        """The server sent `Keep-Alive: timeout=seconds` (RFC 2068 section 19.7.1.1); the newest word counts."""
        if self.enabled and seconds > 0:
            self._header = seconds

    def learned(self, now: float) -> float | None:
        """Seconds after which this server closes idle connections, or None while that is not known."""
        self._expire(now)
        lowest = min(self._learned, self._header)
        return None if lowest == NEVER else lowest

    def limit(self, now: float) -> float:
        """Seconds for which an idle connection may still be used; `NEVER` when there is no limit."""
        known = self.learned(now)
        configured = self.idle_timeout or NEVER
        return configured if known is None else min(configured, max(known - _margin(known), 0.0))

    def _expire(self, now: float) -> None:
        if now >= self._forget_at:
            self._learned = self._forget_at = NEVER


def announced_timeout(value: bytes) -> int | None:
    """Seconds that a `Keep-Alive` field announces (`timeout=5, max=100`), None when it does not say."""
    for parameter in value.lower().split(b","):
        name, _, seconds = parameter.partition(b"=")
        if name.strip() == b"timeout" and (digits := seconds.strip(b' \t"')).isdigit() and len(digits) < 10:
            return int(digits)
    return None


def _alike(one: float, other: float) -> bool:
    """Servers that look for idle connections now and then close them up to twice as late as they say."""
    return max(one, other) <= 2 * min(one, other) + MARGIN_MIN


def _margin(seconds: float) -> float:
    return max(MARGIN_SHARE * seconds, MARGIN_MIN)

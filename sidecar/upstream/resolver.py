"""Names to addresses: literals and localhost at once, the rest through c-ares; cached by TTL, one question at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.model.reason import Phase, Reason
from sidecar.policy.deadline import NEVER
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.cares import CaresClient, Record

Query = Callable[[str], Awaitable[list[Record]]]

TTL_MIN: Final = 1.0
TTL_MAX: Final = 300.0
"""An answer is believed for its TTL, but within these bounds (seconds)."""
NEGATIVE_TTL: Final = 1.0
QUESTION_MAX: Final = 15.0
"""Seconds after which a question is given up, whatever resolv.conf allows. `connect` usually fires long before."""
ENTRIES_MAX: Final = 1024
_LOCALHOST: Final = ("127.0.0.1", "::1")


class Answer:
    """The addresses of a name, the best first, or why there are none. Good until `expires_at` (loop time)."""

    __slots__ = ("addresses", "error", "expires_at")

    def __init__(self, addresses: tuple[str, ...], expires_at: float, error: UpstreamError | None = None) -> None:
        self.addresses = addresses
        self.expires_at = expires_at
        self.error = error


class Resolver:
    """Shared by all upstreams of a process."""

    __slots__ = ("_asking", "_cache", "_closed", "_query")

    def __init__(self, query: Query | None = None) -> None:
        self._query = query or CaresClient().query
        self._cache: OrderedDict[str, Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Answer]] = {}
        self._closed = False

    async def lookup(self, host: str, *, fresh: bool = False) -> Answer:
        """The addresses of `host`; `fresh`: whatever the cache says. Does not suspend when they are known.

        Raises UpstreamError DNS_TIMEOUT or DNS_ERROR, phase CONNECT. Cancelled: the question goes on for the others
        who wait for it, and its answer is kept.
        """
        answer = _without_asking(host)
        if answer is None and not fresh:
            answer = self._cached(host)
        if answer is None:
            answer = await self._join(self._ask(host))
        if answer.error is not None:
            raise UpstreamError(answer.error.reason, f"{host}: {answer.error.detail}", phase=Phase.CONNECT)
        return answer

    def forget(self, host: str) -> None:
        """The next lookup asks anew: the addresses that we have do not answer."""
        self._cache.pop(host, None)

    async def aclose(self) -> None:
        """Give up every question; later lookups fail."""
        self._closed = True
        await cancel_and_wait(self._asking.values())
        self._cache.clear()

    def _cached(self, host: str) -> Answer | None:
        answer = self._cache.get(host)
        if answer is None:
            return None
        if answer.expires_at <= asyncio.get_running_loop().time():
            del self._cache[host]
            return None
        self._cache.move_to_end(host)
        return answer

    def _ask(self, host: str) -> asyncio.Task[Answer]:
        if self._closed:
            raise _closed()
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = create_task(self._question(host), name=f"resolve {host}")
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return task

    async def _join(self, asking: asyncio.Task[Answer]) -> Answer:
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if asking.cancelled() and task is not None and not task.cancelling():  # not we: the question
                raise _closed() from None
            raise

    async def _question(self, host: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(QUESTION_MAX):
                records = await self._query(host)
        except TimeoutError:
            answer = Answer((), loop.time() + NEGATIVE_TTL, UpstreamError(Reason.DNS_TIMEOUT, "no answer"))
        except UpstreamError as error:
            answer = Answer((), loop.time() + NEGATIVE_TTL, error)
        else:
            ttl = min((ttl for _, ttl in records), default=0)
            addresses = tuple(dict.fromkeys(address for address, _ in records))
            answer = Answer(addresses, loop.time() + min(max(float(ttl), TTL_MIN), TTL_MAX))
        self._cache[host] = answer
        if len(self._cache) > ENTRIES_MAX:
            self._cache.popitem(last=False)
        return answer


def _closed() -> UpstreamError:
    return UpstreamError(Reason.DNS_ERROR, "the resolver is closed", phase=Phase.CONNECT)


def _without_asking(host: str) -> Answer | None:
    """Literals, and localhost, which never is a question for DNS (RFC 6761 section 6.3)."""
    try:
        return Answer((str(ip_address(host)),), NEVER)
    except ValueError:
        pass
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return Answer(_LOCALHOST, NEVER)
    if not name.isascii() or "\0" in name or _ends_in_number(name):
        return Answer((), NEVER, UpstreamError(Reason.DNS_ERROR, "neither a name nor a canonical IP address"))
    return None


def _ends_in_number(name: str) -> bool:
    """`127.1`, `2130706433` and `0x7f.1` are no host names, but some resolvers take them for addresses."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")

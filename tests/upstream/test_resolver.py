"""The resolver against a scripted DNS server on loopback."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop
from upstream_fakes import SERVFAIL, DnsServer, until

from sidecar.errors import UpstreamError
from sidecar.model.reason import Phase, Reason
from sidecar.upstream import resolver as module
from sidecar.upstream.cares import CaresClient, Record
from sidecar.upstream.resolver import Resolver

RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


def resolver_for(dns: DnsServer, *, timeout: float = 5.0) -> Resolver:
    return Resolver(CaresClient([dns.address], timeout=timeout, tries=1).query)


async def reason_of(resolver: Resolver, host: str) -> Reason:
    with pytest.raises(UpstreamError) as caught:
        await resolver.lookup(host)
    assert caught.value.phase is Phase.CONNECT
    return caught.value.reason


@pytest.mark.parametrize("run", RUNNERS)
def test_a_name_has_its_a_and_aaaa_addresses_for_the_shortest_ttl(run) -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["both.test"] = [("127.0.0.9", 70), ("::1", 50)]
            resolver = resolver_for(dns)
            answer = await resolver.lookup("both.test")
            assert sorted(answer.addresses) == ["127.0.0.9", "::1"]
            assert 49 < answer.expires_at - asyncio.get_running_loop().time() <= 50.1
            await resolver.aclose()

    run(main())


def test_an_answer_is_kept_for_its_ttl_and_no_longer() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.9", 1)]
            resolver = resolver_for(dns)
            answer = await resolver.lookup("a.test")
            assert await resolver.lookup("a.test") is answer
            dns.records["a.test"] = [("127.0.0.10", 1)]
            await asyncio.sleep(answer.expires_at - asyncio.get_running_loop().time() + 0.01)
            assert (await resolver.lookup("a.test")).addresses == ("127.0.0.10",)
            assert dns.questions("a.test") == 2
            await resolver.aclose()

    uvloop.run(main())


@pytest.mark.parametrize(("ttl", "kept"), [(0, 1.0), (100_000, 300.0)])
def test_ttls_are_kept_within_a_second_and_five_minutes(ttl: int, kept: float) -> None:
    async def main() -> None:
        async def query(_host: str) -> list[Record]:
            return [("127.0.0.9", ttl)]

        answer = await Resolver(query).lookup("a.test")
        assert answer.expires_at - asyncio.get_running_loop().time() == pytest.approx(kept, abs=0.1)

    uvloop.run(main())


def test_a_fresh_or_forgotten_name_is_asked_for_again_despite_its_ttl() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.9", 60)]
            resolver = resolver_for(dns)
            await resolver.lookup("a.test")
            await resolver.lookup("a.test", fresh=True)
            resolver.forget("a.test")
            await resolver.lookup("a.test")
            assert dns.questions("a.test") == 3
            await resolver.aclose()

    uvloop.run(main())


def test_many_who_ask_at_once_share_one_question() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.9", 60)]
            resolver = resolver_for(dns)
            answers = await asyncio.gather(*(resolver.lookup("a.test") for _ in range(20)))
            assert len({id(answer) for answer in answers}) == 1
            assert dns.questions("a.test") == 1
            await resolver.aclose()

    uvloop.run(main())


def test_who_gives_up_waiting_does_not_end_the_question_for_the_others() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.9", 60)]
            resolver = resolver_for(dns)
            impatient, patient = asyncio.ensure_future(resolver.lookup("a.test")), asyncio.ensure_future(resolver.lookup("a.test"))
            await asyncio.sleep(0)
            impatient.cancel()
            assert (await patient).addresses == ("127.0.0.9",)
            await resolver.aclose()

    uvloop.run(main())


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("10.1.2.3", ("10.1.2.3",)),
        ("FE80::1", ("fe80::1",)),
        ("localhost", ("127.0.0.1", "::1")),
        ("LOCALHOST.", ("127.0.0.1", "::1")),
        ("app.localhost", ("127.0.0.1", "::1")),
    ],
)
def test_literals_and_localhost_are_no_question(host: str, addresses: tuple[str, ...]) -> None:
    async def main() -> None:
        async def never(_host: str) -> list[Record]:
            raise AssertionError

        assert (await Resolver(never).lookup(host)).addresses == addresses

    uvloop.run(main())


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "a.0x7f", "café.test", "a\0.test"])
def test_what_some_resolvers_take_for_an_address_is_no_name(host: str) -> None:
    async def main() -> None:
        async def never(_host: str) -> list[Record]:
            raise AssertionError

        assert await reason_of(Resolver(never), host) is Reason.DNS_ERROR

    uvloop.run(main())


@pytest.mark.parametrize("host", ["unknown.test", "broken.test", "empty.test", "a..b", "x" * 64 + ".test"])
def test_a_name_without_an_answer_is_dns_error_and_not_asked_again_at_once(host: str) -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records |= {"broken.test": SERVFAIL, "empty.test": []}
            resolver = resolver_for(dns)
            assert await reason_of(resolver, host) is Reason.DNS_ERROR
            asked = len(dns.asked)
            assert await reason_of(resolver, host) is Reason.DNS_ERROR
            assert len(dns.asked) == asked
            await resolver.aclose()

    uvloop.run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_server_that_does_not_answer_is_dns_timeout(run) -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.silent = True
            resolver = resolver_for(dns, timeout=0.25)
            assert await reason_of(resolver, "a.test") is Reason.DNS_TIMEOUT
            await resolver.aclose()

    run(main())


def test_a_question_has_a_time_limit_whatever_the_client_does(monkeypatch) -> None:
    monkeypatch.setattr(module, "QUESTION_MAX", 0.02)

    async def main() -> None:
        async def forever(_host: str) -> list[Record]:
            await asyncio.Event().wait()
            raise AssertionError

        assert await reason_of(Resolver(forever), "a.test") is Reason.DNS_TIMEOUT

    uvloop.run(main())


def test_a_slow_question_does_not_block_the_loop_and_closing_ends_it_with_its_sockets() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.silent = True
            resolver = resolver_for(dns)
            before = len(os.listdir("/proc/self/fd"))
            asking = asyncio.ensure_future(resolver.lookup("a.test"))
            await dns.heard.wait()
            assert len(os.listdir("/proc/self/fd")) > before
            await resolver.aclose()
            with pytest.raises(UpstreamError):
                await asking
            assert len(os.listdir("/proc/self/fd")) == before
            assert await reason_of(resolver, "a.test") is Reason.DNS_ERROR

    uvloop.run(main())


def test_the_cache_is_bounded_and_keeps_what_was_used_last(monkeypatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)

    async def main() -> None:
        asked: list[str] = []

        async def query(host: str) -> list[Record]:
            asked.append(host)
            return [("127.0.0.9", 60)]

        resolver = Resolver(query)
        for host in ("a.test", "b.test", "a.test", "c.test", "a.test", "b.test"):
            await resolver.lookup(host)
        assert asked == ["a.test", "b.test", "c.test", "b.test"]
        await until(lambda: not resolver._asking)

    uvloop.run(main())

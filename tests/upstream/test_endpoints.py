"""Endpoint sets: static targets, and DNS names that are followed."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest
import uvloop
from upstream_fakes import DnsServer, until

from sidecar.model.reason import Reason
from sidecar.model.snapshot import DnsName, Target
from sidecar.upstream import endpoints as module
from sidecar.upstream.cares import CaresClient
from sidecar.upstream.endpoints import DnsEndpoints, StaticEndpoints
from sidecar.upstream.resolver import Resolver


class Followed:
    """A DnsEndpoints on a scripted DNS server, and how often it has changed."""

    def __init__(self, dns: DnsServer, **known) -> None:
        self.changes = 0
        self.resolver = Resolver(CaresClient([dns.address], timeout=5, tries=1).query)
        self.set = DnsEndpoints(DnsName(host="a.test", port=80), self.resolver, self._changed, **known)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def hosts(self) -> list[str]:
        return [endpoint.host for endpoint in self.set.endpoints]

    async def __aenter__(self) -> Self:
        await self.set.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.set.aclose()
        await self.resolver.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "REFRESH_GAP", 0.05)
    monkeypatch.setattr("sidecar.upstream.resolver.TTL_MIN", 0.05)


def test_a_static_target_is_one_endpoint_whatever_its_name_resolves_to() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 60), ("127.0.0.2", 60)]
            resolver = Resolver(CaresClient([dns.address]).query)
            targets = (Target(host="a.test", port=80, weight=3), Target(host="", port=0, unix_path="/s"))
            static = StaticEndpoints(targets, resolver)
            named, unix = static.endpoints
            assert (named.label, named.weight, unix.label) == ("a.test:80", 3, "/s")
            assert sorted(await static.addresses(named)) == ["127.0.0.1", "127.0.0.2"]
            await resolver.aclose()

    uvloop.run(main())


def test_equal_targets_keep_their_endpoints_and_changed_weights_do_not() -> None:
    def targets(weight: int) -> tuple[Target, ...]:
        return (Target(host="10.0.0.1", port=80), Target(host="10.0.0.2", port=80, weight=weight))

    before = StaticEndpoints(targets(1), Resolver())
    after = StaticEndpoints(targets(2), Resolver(), before.endpoints)
    assert after.endpoints[0] is before.endpoints[0]
    assert after.endpoints[1] is not before.endpoints[1]


def test_a_failed_connect_to_a_static_name_makes_the_next_one_ask_again() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 60)]
            resolver = Resolver(CaresClient([dns.address]).query)
            static = StaticEndpoints((Target(host="a.test", port=80),), resolver)
            for _ in range(2):
                await static.addresses(static.endpoints[0])
                static.connect_failed(static.endpoints[0])
            assert dns.questions("a.test") == 2
            await resolver.aclose()

    uvloop.run(main())


def test_a_name_has_one_endpoint_per_address_and_is_asked_again_when_its_ttl_ends() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.2", 0), ("127.0.0.1", 0)]
            async with Followed(dns) as followed:
                assert followed.hosts == ["127.0.0.1", "127.0.0.2"]
                kept = followed.set.endpoints[0]
                dns.records["a.test"] = [("127.0.0.1", 0), ("127.0.0.3", 0)]
                await until(lambda: followed.hosts == ["127.0.0.1", "127.0.0.3"])
                assert followed.set.endpoints[0] is kept
                assert followed.changes == 2

    uvloop.run(main())


def test_an_answer_in_another_order_is_no_change() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 0), ("127.0.0.2", 0)]
            async with Followed(dns) as followed:
                dns.records["a.test"] = [("127.0.0.2", 0), ("127.0.0.1", 0)]
                await until(lambda: dns.questions("a.test") >= 3)
                assert followed.changes == 1

    uvloop.run(main())


def test_a_long_ttl_is_not_waited_for_after_a_failed_connect() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 300)]
            async with Followed(dns) as followed:
                dns.records["a.test"] = [("127.0.0.2", 300)]
                followed.set.connect_failed(followed.set.endpoints[0])
                await until(lambda: followed.hosts == ["127.0.0.2"])
                assert dns.questions("a.test") == 2

    uvloop.run(main())


def test_the_last_answer_is_kept_while_dns_fails_and_the_failure_is_said(caplog) -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 0)]
            async with Followed(dns) as followed:
                del dns.records["a.test"]
                await until(lambda: followed.set.problem != "")
                assert followed.hosts == ["127.0.0.1"]
                assert "a.test" in followed.set.problem
                dns.records["a.test"] = [("127.0.0.2", 0)]
                followed.set.connect_failed(followed.set.endpoints[0])
                await until(lambda: followed.hosts == ["127.0.0.2"])
                assert followed.set.problem == ""

    uvloop.run(main())
    assert [record.event for record in caplog.records] == ["dns_failed"]


def test_a_name_that_never_resolved_has_no_endpoints_and_says_why() -> None:
    async def main() -> None:
        async with DnsServer() as dns, Followed(dns) as followed:
            assert followed.set.endpoints == ()
            assert followed.set.reason is Reason.DNS_ERROR
            dns.records["a.test"] = [("127.0.0.1", 60)]
            followed.set._poked.set()
            await until(lambda: followed.hosts == ["127.0.0.1"])

    uvloop.run(main())


def test_only_one_family_is_balanced_over_and_the_other_is_raced_against_it() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 60), ("127.0.0.2", 60), ("::1", 60)]
            async with Followed(dns) as followed:
                families = {":" in host for host in followed.hosts}
                assert len(families) == 1
                endpoint = followed.set.endpoints[0]
                own, alternate = await followed.set.addresses(endpoint)
                assert own == endpoint.host
                assert (":" in own) is not (":" in alternate)

    uvloop.run(main())


def test_closing_stops_the_questions() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            async with Followed(dns) as followed:
                pass
            assert followed.set._task.done()
            asked = len(dns.asked)
            await asyncio.sleep(0.15)
            assert len(dns.asked) == asked

    uvloop.run(main())

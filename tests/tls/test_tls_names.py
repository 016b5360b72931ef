"""Which names of a certificate match (RFC 9525 section 6), and what an endpoint is expected to be called."""

from __future__ import annotations

import pytest

from sidecar.model.endpoint import Endpoint
from sidecar.model.snapshot import DnsName, ServiceName, Target, Upstream
from sidecar.model.tls import AltName, AltNameType, UpstreamTls
from sidecar.tls.names import covers, has_one_of, server_name


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("a.test", "a.test", True),
        ("A.Test", "a.tEST.", True),
        ("a.test", "b.a.test", False),
        ("*.a.test", "b.a.test", True),
        ("*.a.test", "c.b.a.test", False),
        ("*.a.test", "a.test", False),
        ("*.a.test", ".a.test", False),
        ("b*.a.test", "bc.a.test", False),
        ("b.*.test", "b.a.test", False),
        ("*", "test", False),
        ("*.test", "a.test", False),
        ("", "a.test", False),
    ],
)
def test_a_wildcard_is_the_whole_leftmost_label_for_exactly_one_label(pattern: str, host: str, matches: bool) -> None:
    assert covers(pattern, host) is matches


CERTIFICATE = {
    "subjectAltName": (
        ("DNS", "*.shop.test"),
        ("URI", "spiffe://c/ns/shop"),
        ("IP Address", "10.0.0.1"),
        ("IP Address", "FD00:0:0:0:0:0:0:1"),
    )
}


@pytest.mark.parametrize(
    ("kind", "value", "there"),
    [
        (AltNameType.HOSTNAME, "orders.shop.test", True),
        (AltNameType.HOSTNAME, "shop.test", False),
        (AltNameType.HOSTNAME, "10.0.0.1", True),
        (AltNameType.HOSTNAME, "10.0.0.2", False),
        (AltNameType.HOSTNAME, "fd00::1", True),
        (AltNameType.URI, "spiffe://c/ns/shop", True),
        (AltNameType.URI, "spiffe://c/ns/shop/", False),
        (AltNameType.URI, "*.shop.test", False),
    ],
)
def test_a_name_is_looked_for_among_those_of_its_kind(kind: AltNameType, value: str, there: bool) -> None:
    assert has_one_of(CERTIFICATE, [AltName(type=kind, value=value)]) is there


def test_one_wanted_name_is_enough_and_a_certificate_without_names_has_none() -> None:
    wanted = [AltName(type=AltNameType.URI, value="x://y"), AltName(type=AltNameType.HOSTNAME, value="a.shop.test")]
    assert has_one_of(CERTIFICATE, wanted)
    assert not has_one_of({"subject": ((("commonName", "a.shop.test"),),)}, wanted)


def test_the_expected_name_is_the_hostname_else_the_dns_name_else_the_services_else_the_targets() -> None:
    endpoint = Endpoint("10.0.0.9", 443, tls=True)
    tls = UpstreamTls()
    service = ServiceName(name="orders", namespace=None, port=443)
    assert server_name(Upstream(name="a", dns=DnsName(host="d.test", port=1), tls=UpstreamTls(hostname="h.test")), endpoint) == "h.test"
    assert server_name(Upstream(name="a", dns=DnsName(host="d.test", port=1), tls=tls), endpoint) == "d.test"
    assert server_name(Upstream(name="a", service=service, tls=tls), endpoint, "shop") == "orders.shop.svc"
    other = ServiceName(name="orders", namespace="other", port=443)
    assert server_name(Upstream(name="a", service=other, tls=tls), endpoint, "shop") == "orders.other.svc"
    assert server_name(Upstream(name="a", targets=(Target(host="10.0.0.9", port=443, tls=True),), tls=tls), endpoint) == "10.0.0.9"

"""Attributes against the tables of OpenTelemetry's HTTP conventions (stable): required, conditional, recommended, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from support import answer, response
from support.otlp import Span
from tracing_kit import ask, clients, live, server, traced

from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.head import RequestHead
from sidecar.model.snapshot import DnsName, Listener, Mode, Upstream
from sidecar.observe.tracing import attributes
from sidecar.observe.tracing.context import ExchangeTracer, Sampling
from sidecar.observe.tracing.propagation import Formats
from sidecar.observe.tracing.record import MAX_FIELD, MAX_TARGET, Record, record
from sidecar.observe.tracing.settings import METHODS

OWN = "outrider."
SERVER_REQUIRED = {"http.request.method", "url.path", "url.scheme"}
SERVER_ALLOWED = SERVER_REQUIRED | {
    "client.address",
    "error.type",
    "http.request.method_original",
    "http.response.status_code",
    "http.route",
    "network.peer.address",
    "network.protocol.version",
    "server.address",
    "server.port",
    "url.query",
    "user_agent.original",
}
CLIENT_REQUIRED = {"http.request.method", "server.address", "server.port", "url.full"}
CLIENT_ALLOWED = CLIENT_REQUIRED | {
    "error.type",
    "http.request.method_original",
    "http.request.resend_count",
    "http.response.status_code",
    "network.peer.address",
    "network.peer.port",
    "network.protocol.version",
}


def of_conventions(span: Span) -> set[str]:
    return {name for name in span.attributes if not name.startswith(OWN)}


@pytest.mark.parametrize("status", [200, 302, 404, 500])
@pytest.mark.parametrize("method", ["GET", "PATCH", "BREW"])
@live
async def test_spans_have_what_the_tables_require_and_nothing_that_they_do_not_know(status: int, method: str):
    async with traced(answer(response(f"{status} X", b""))) as (collector, engine, _):
        await ask(engine, "/a/b?x=1", method=method, headers="User-Agent: it/1\r\n", host="shop.example:8443")
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert SERVER_REQUIRED <= of_conventions(exchange) <= SERVER_ALLOWED
    assert CLIENT_REQUIRED <= of_conventions(attempt) <= CLIENT_ALLOWED
    for span in (exchange, attempt):
        known = method != "BREW"
        assert span.attributes["http.request.method"] == (method if known else "_OTHER")
        assert span.attributes.get("http.request.method_original") == (None if known else "BREW")
        assert span.attributes["http.response.status_code"] == status
    assert exchange.name == f"{method if method != 'BREW' else 'HTTP'} all"
    assert (exchange.status, exchange.attributes.get("error.type")) == (("error", "500") if status == 500 else ("unset", None))
    assert (attempt.status, attempt.attributes.get("error.type")) == (("error", str(status)) if status >= 400 else ("unset", None))


@live
async def test_the_values_of_both_spans():
    async with traced(answer(response(body=b"x"))) as (collector, engine, fake):
        port = fake.port
        await ask(engine, "/a/%62?x=1&sig=mine", headers="User-Agent: it/1\r\nx-request-id: r-1\r\n", host="shop.example:8443")
        spans = await collector.wait(2)
    assert server(spans).attributes == {
        "client.address": "127.0.0.1",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "all",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "outrider.listener": "inbound",
        "outrider.request_id": "r-1",
        "outrider.route": "all",
        "outrider.upstream": "app",
        "server.address": "shop.example",
        "server.port": 8443,
        "url.path": "/a/%62",
        "url.query": "x=1&sig=REDACTED",
        "url.scheme": "http",
        "user_agent.original": "it/1",
    }
    assert clients(spans)[0].attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        "network.protocol.version": "1.1",
        "outrider.listener": "inbound",
        "outrider.route": "all",
        "outrider.upstream": "app",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"http://127.0.0.1:{port}/a/%62?x=1&sig=REDACTED",
    }


def made(
    target: bytes = b"/", host: bytes = b"a", client: str = "10.0.0.9", fields: Any = (), trusted: bool = True, **upstream: Any
) -> Record:
    """The record of an exchange that nobody has sent."""
    head = RequestHead(b"GET", target, 1, [(name, name.lower(), value) for name, value in fields])
    head.host = host
    exchange = Exchange(Listener(name="inbound", port=1, bind="", mode=Mode.REVERSE), head, client, 1.0)
    exchange.peer_trusted = trusted
    exchange.upstream = Upstream(name="app", **upstream)
    exchange.attempts.append(Attempt(1, 1.0))
    trace = ExchangeTracer(Formats(()), Sampling(1.0, parent_based=True)).begin({}, believed=True)
    trace.target = target
    return record(exchange, trace)


METHOD_SET = frozenset(METHODS)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("sig=1", "sig=REDACTED"),
        ("a=1&Signature=x%20y&b=2", "a=1&Signature=REDACTED&b=2"),
        (
            "X-Amz-Signature=1&X-Amz-Credential=2&X-Amz-Security-Token=3",
            "X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED",
        ),
        ("X-Goog-Signature=1&AWSAccessKeyId=2", "X-Goog-Signature=REDACTED&AWSAccessKeyId=REDACTED"),
        ("SIG=1&design=2&sigma=3", "SIG=1&design=2&sigma=3"),
        ("sig&x", "sig&x"),
        ("sig=", "sig=REDACTED"),
        ("a=sig=1", "a=sig=1"),
    ],
)
def test_signatures_in_queries_are_not_shown(query: str, shown: str):
    assert attributes.redacted(query) == shown
    assert attributes.server(made(b"/?" + query.encode()), METHOD_SET)["url.query"] == shown


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        (b"shop", "shop", 80),
        (b"shop:81", "shop", 81),
        (b"[::1]", "::1", 80),
        (b"[::1]:81", "::1", 81),
        (b"shop:", "shop", 80),
        (b"", None, None),
    ],
)
def test_the_server_address_is_the_host_that_the_client_asked_for(host: bytes, address: str | None, port: int | None):
    found = attributes.server(made(host=host), METHOD_SET)
    assert (found.get("server.address"), found.get("server.port")) == (address, port)


@pytest.mark.parametrize(
    ("forwarded", "trusted", "shown"),
    [
        (b"203.0.113.7, 10.0.0.1", True, "203.0.113.7"),
        (b"[2001:db8::1]:443", True, "2001:db8::1"),
        (b"203.0.113.7", False, "10.0.0.9"),
        (b"nonsense", True, "10.0.0.9"),
        (b"", True, "10.0.0.9"),
    ],
)
def test_the_client_address_is_the_original_one_as_far_as_it_is_believed(forwarded: bytes, trusted: bool, shown: str):
    found = attributes.server(made(fields=[(b"X-Forwarded-For", forwarded)], trusted=trusted), METHOD_SET)
    assert (found["client.address"], found["network.peer.address"]) == (shown, "10.0.0.9")


def test_a_client_on_a_unix_socket_has_no_address():
    found = attributes.server(made(client="unix"), METHOD_SET)
    assert "client.address" not in found
    assert "network.peer.address" not in found


def test_a_dns_upstream_is_named_by_its_name_also_when_no_endpoint_was_found():
    one = made(dns=DnsName(host="billing.example", port=8443))
    found = attributes.client(one, one.attempts[0], METHOD_SET)
    assert (found["server.address"], found["server.port"]) == ("billing.example", 8443)
    assert found["url.full"] == "http://billing.example:8443/"


def test_what_hostile_requests_leave_in_the_queue_is_cut():
    one = made(b"/" + b"x" * 30_000, fields=[(b"User-Agent", b"y" * 30_000), (b"Cookie", b"z" * 30_000)])
    assert len(one.target) == MAX_TARGET
    assert len(one.user_agent) == MAX_FIELD
    assert not any(b"zzz" in value for value in one if isinstance(value, bytes))


def test_bytes_that_are_no_text_are_shown_and_not_refused():
    assert attributes.server(made(b"/\xff\xfe"), METHOD_SET)["url.path"] == "/\\xff\\xfe"

"""A document's own `tests:`: each field is compared, and a document whose tests fail is rejected with the line."""

from __future__ import annotations

from typing import Any

import pytest
from document_kit import INBOUND, OUTBOUND, Document, document, problems_of, proves, route_to, under, upstream_at

CLOCKS = ("request", "backendRequest", "responseHeader", "streamIdle", "tunnelIdle", "upgradeHandshake", "queue")


def judged(request: Document, expect: Document, **more: Any) -> list[str]:
    """The problems of a document with this one test."""
    routes = [
        route_to("orders", matches=[{"path": {"value": "/orders"}}], listener="inbound", timeouts={"request": "3s"}),
        {
            **route_to(
                "orders", matches=[{"method": "PUT", "headers": [{"name": "x-tenant", "value": "blue"}]}], hostnames=["blue.example"]
            ),
            "name": "blue",
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "1"}], "remove": ["x-b"]}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "inside"}},
            ],
        },
        route_to("way-out", listener="outbound", hostnames=["out.example"]),
    ]
    doc = document(routes=routes, upstreams=[upstream_at(1, name="orders"), upstream_at(2, name="way-out")])
    doc["listeners"] = [INBOUND, OUTBOUND]
    return problems_of({**doc, "tests": [{"request": request, "expect": expect, **more}]})


BLUE = {"url": "http://blue.example/x", "method": "PUT", "headers": {"X-Tenant": "blue", "x-b": "2"}}


@proves(*under("tests[].request", "url", "method", "headers", "listener"), *under("tests[].expect", "route", "upstream", "headers"))
@pytest.mark.parametrize(
    ("request_", "expect"),
    [
        ({"url": "/orders/1"}, {"route": "orders", "upstream": "orders"}),
        ({"url": "/x"}, {"route": None}),
        ({"url": "/orders", "listener": "outbound"}, {"route": None}),
        ({"url": "/", "headers": {"Host": "out.example"}, "listener": "outbound"}, {"route": "way-out", "upstream": "way-out"}),
        ({"url": "http://out.example/"}, {"route": "way-out"}),
        (BLUE, {"route": "blue", "upstream": "orders", "headers": {"x-a": "1", "x-b": None, "x-tenant": "blue", "host": "inside"}}),
    ],
)
def test_a_document_that_passes_its_tests_is_accepted(request_: Document, expect: Document) -> None:
    assert judged(request_, expect) == []


@proves(*under("tests[].request", "url", "method", "headers", "listener"), *under("tests[].expect", "route", "upstream", "headers"))
@pytest.mark.parametrize(
    ("request_", "expect", "place"),
    [
        ({"url": "/x"}, {"route": "orders"}, "route"),
        ({"url": "/orders"}, {"route": None}, "route"),
        ({"url": "/orders", "listener": "outbound"}, {"route": "orders"}, "route"),
        ({"url": "/orders"}, {"upstream": "way-out"}, "upstream"),
        ({**BLUE, "method": "GET"}, {"route": "blue"}, "route"),
        ({**BLUE, "headers": {}}, {"route": "blue"}, "route"),
        ({**BLUE, "url": "http://red.example/x"}, {"route": "blue"}, "route"),
        (BLUE, {"headers": {"x-a": "2"}}, "headers.x-a"),
        (BLUE, {"headers": {"x-a": None}}, "headers.x-a"),
        (BLUE, {"headers": {"x-b": "2"}}, "headers.x-b"),
    ],
)
def test_a_document_that_fails_its_tests_is_rejected_with_the_place(request_: Document, expect: Document, place: str) -> None:
    (problem,) = judged(request_, expect)
    line, _, rest = problem.partition(": ")
    assert rest.startswith(f"tests[0].expect.{place}: this test fails: ")
    assert int(line) > 60  # `tests` comes last


@proves(*under("tests[].expect.timeouts", *CLOCKS))
@pytest.mark.parametrize("clock", CLOCKS)
def test_every_clock_can_be_expected(clock: str) -> None:
    effective = {
        "request": "3s",
        "backendRequest": "0s",
        "responseHeader": "1m",
        "streamIdle": "5m",
        "tunnelIdle": "1h",
        "upgradeHandshake": "10s",
        "queue": "5s",
    }
    assert judged({"url": "/orders"}, {"timeouts": {clock: effective[clock]}}) == []
    (problem,) = judged({"url": "/orders"}, {"timeouts": {clock: "42s"}})
    assert f"tests[0].expect.timeouts.{clock}: this test fails: it expects 42s" in problem


@proves("tests[].name")
def test_the_name_of_a_test_is_in_what_is_said_about_it() -> None:
    (problem,) = judged({"url": "/x"}, {"route": "orders"}, name="orders go to orders")
    assert "this test (orders go to orders) fails" in problem


@pytest.mark.parametrize(
    ("request_", "expect", "said"),
    [
        ({"url": "orders"}, {"route": None}, "request.url: "),
        ({"url": "/", "method": "G T"}, {"route": None}, "request.method: "),
        ({"url": "/", "listener": "nobody"}, {"route": None}, "request.listener: there is no listener"),
        ({"url": "/"}, {"route": "nobody"}, "expect.route: there is no route"),
        ({"url": "/"}, {"upstream": "nobody"}, "expect.upstream: there is no upstream"),
        ({"url": "/"}, {}, "expect: expects nothing"),
    ],
)
def test_tests_that_mean_nothing_are_refused(request_: Document, expect: Document, said: str) -> None:
    assert f"tests[0].{said}" in judged(request_, expect)[0]

"""`/metrics` in the format and the coding that the scraper asks for."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from observe_samples import attempt, exchange, failed_exchange, families, run
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.model.status import ConfigStatus
from sidecar.observe.exposition import Exposition, wants_gzip, wants_openmetrics
from sidecar.observe.metrics import Metrics

PROMETHEUS_3 = (
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    b"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def exposition():
    metrics = Metrics()
    run(metrics, exchange(attempt()), failed_exchange(), exchange(attempt(), route='we"ird\\\n'))
    metrics.upstream_connected("orders", "success", 0.01)
    return Exposition(families(metrics, config=ConfigStatus(source="file", revision="1", hash="2", last_applied_timestamp=1.5)).collect)


def own(parsed):
    """The samples of ours that do not change between two scrapes."""
    moving = ("outrider_file_desc", "outrider_memory", "outrider_network", "outrider_cpu")
    return sorted(
        (sample.name, sorted(sample.labels.items()), sample.value)
        for family in parsed
        for sample in family.samples
        if sample.name.startswith("outrider_") and not sample.name.startswith(moving)
    )


def test_text_is_what_everybody_gets_who_does_not_ask_for_openmetrics():
    for accept in (
        b"",
        b"*/*",
        b"text/html",
        b"text/plain",
        b"application/openmetrics-text;q=0",
        b"text/plain, application/openmetrics-text;q=0.5",
    ):
        content_type, encoding, body = exposition().render(accept, b"")
        assert content_type == b"text/plain; version=0.0.4; charset=utf-8"
        assert encoding is None
        assert b"# EOF" not in body


def test_openmetrics_is_valid_by_the_strict_parser_and_says_the_same_as_text():
    page = exposition()
    content_type, _, body = page.render(PROMETHEUS_3, b"")
    assert content_type == b"application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")
    assert body.count(b"# EOF") == 1
    _, _, text = page.render(b"", b"")
    assert own(parse_openmetrics(body.decode())) == own(parse_text(text.decode()))


def test_gzip_comes_only_to_those_who_accept_it():
    page = exposition()
    _, encoding, body = page.render(b"", b"gzip")
    assert encoding == b"gzip"
    _, nothing, plain = page.render(b"", b"gzip;q=0, identity")
    assert nothing is None
    assert own(parse_text(gzip.decompress(body).decode())) == own(parse_text(plain.decode()))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"gzip", True),
        (b"GZIP;q=0.1", True),
        (b"br, *;q=0.5", True),
        (b"*;q=0", False),
        (b"gzip;q=0", False),
        (b"identity", False),
        (b"", False),
        (b"gzip;q=x", False),
    ],
)
def test_the_coding_is_negotiated_by_quality(value, wanted):
    assert wants_gzip(value) is wanted


def test_nonsense_in_accept_is_text():
    for value in (b"\xff;q=\xff,,;;", b"," * 5000, b"application/openmetrics-text;q=nan"):
        assert not wants_openmetrics(value)


def test_rendering_in_slices_lets_other_work_through_and_gives_the_same_page():
    metrics = Metrics()
    for number in range(200):
        run(metrics, exchange(attempt(), route=f"route-{number}"))
    page = Exposition(families(metrics).collect)

    async def scrape():
        turns = 0

        async def count_turns():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count_turns())
        rendered = await page.render_in_slices(b"", b"gzip")
        other.cancel()
        return turns, rendered

    turns, (content_type, encoding, body) = asyncio.run(scrape())
    assert turns > 5
    assert (content_type, encoding) == (b"text/plain; version=0.0.4; charset=utf-8", b"gzip")
    _, _, whole = page.render(b"", b"")
    assert own(parse_text(gzip.decompress(body).decode())) == own(parse_text(whole.decode()))


def test_requests_that_end_while_a_page_is_rendered_do_not_disturb_it():
    metrics = Metrics()
    for number in range(100):
        run(metrics, exchange(attempt(), route=f"route-{number}"))
    page = Exposition(families(metrics).collect)

    async def scrape():
        async def traffic():
            for number in range(1000):
                run(metrics, exchange(attempt(), route=f"new-{number}"))
                await asyncio.sleep(0)

        other = asyncio.create_task(traffic())
        _, _, body = await page.render_in_slices(b"", b"")
        other.cancel()
        return body

    body = asyncio.run(scrape())
    counts = {family.name: family for family in parse_text(body.decode())}
    assert len(counts["outrider_requests"].samples) >= 100

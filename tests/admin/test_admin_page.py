"""The page for people."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import uvloop
from admin_fakes import Check, World, active, ask, shop, with_routes
from msgspec.structs import replace

from sidecar.admin import board
from sidecar.admin.board import Board
from sidecar.admin.context import RejectedConfig
from sidecar.admin.history import SLICE, History
from sidecar.admin.parts import PARTS
from sidecar.config.problem import Problem
from sidecar.model.snapshot import Backend, Match, PathMatch, Route
from sidecar.observe.traffic import TrafficCount
from sidecar.tasks import cancel_and_wait

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
ROOT = Path(__file__).parents[2]
_VOID = {"meta", "link", "input", "br", "img"}
_SILENT = {"style", "script", "title"}


class Page(HTMLParser):
    """Collects tags and text, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open
        identities = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(identities) == len(set(identities))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "rect", "circle")
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in _SILENT:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(world: World, **query: str) -> Page:
    return Page(ask(world, lambda caller: caller.get("/?" + urlencode(query))))


def test_the_page_shows_state_configuration_routes_and_endpoints() -> None:
    text = page(World()).text
    for word in ("✓ ready", "0123abcd", "orders.shop.svc", "redirect 302", "127.0.0.1:8000", "✓ healthy", "routes[1] is shadowed"):
        assert word in text


def test_the_page_says_why_the_sidecar_is_not_ready_and_what_is_wrong_with_the_newest_document() -> None:
    world = World()
    world.state = "starting"
    world.checks = [Check(name="config", ok=False, detail="no valid document")]
    world.rejected = RejectedConfig(source="file", revision="8", rejected_at=1.0, problems=(Problem("routes[0].name", 3, 5, "wrong"),))
    world.config = None
    text = page(world).text
    assert "✗ config no valid document" in text
    assert "The newest document (file, 8) was refused" in text
    assert "What is wrong 3 routes[0].name wrong" in text
    assert "The sidecar is starting, config: no valid document, configuration none, the newest document was refused, problems: 1." in text


def test_nothing_on_the_page_comes_from_elsewhere_and_nothing_runs_but_its_script() -> None:
    seen = page(World())
    assert [script.get("src") for script in seen.named("script")] == [None]
    assert not [tag for tag, attributes in seen.tags if any(name.startswith("on") or name == "style" for name in attributes)]
    targets = [attributes.get("href") or attributes.get("src") or attributes.get("action") for _, attributes in seen.tags]
    assert all(target.startswith(("/", "#", "data:,")) for target in targets if target)


def test_the_content_security_policy_permits_exactly_the_style_and_the_script_that_are_sent() -> None:
    _, text, response = ask(World(), lambda caller: caller.send("GET", "/"))
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def evil() -> World:
    """Every value that comes from elsewhere tries to break out."""
    world = World()
    world.problem = EVIL
    world.state = EVIL
    world.level = EVIL
    world.sources = {EVIL: EVIL}
    world.checks = [Check(name=EVIL, ok=False, detail=EVIL)]
    world.rejected = RejectedConfig(source=EVIL, revision=EVIL, rejected_at=1.0, problems=(Problem(EVIL, 3, 5, EVIL),))
    names = ("requestId", "time", "listener", "route", "upstream", "method", "authority", "path", "reason", "clock", "detail")
    world.recent = {"failures": [dict.fromkeys(names, EVIL) | {"status": 503, "durationMs": 1.0}]}
    route = Route(
        name=EVIL, index=0, listener=EVIL, hostnames=(EVIL,), matches=(Match(path=PathMatch(value=EVIL)),), backends=(Backend(name=EVIL),)
    )
    world.config = active(replace(shop(), revision=EVIL, hash=EVIL, routes=(route,), warnings=(EVIL,)))
    return world


def test_every_value_is_escaped() -> None:
    seen = page(evil(), method=EVIL, url=EVIL, header=EVIL, listener=EVIL, filter=EVIL, refresh=EVIL)
    assert len(seen.named("script")) == 1
    assert not seen.named("img")
    assert [field.get("value") for field in seen.named("input")].count(EVIL) >= 6
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert all(EVIL not in (attributes.get("href") or "") for attributes in seen.named("a"))


def test_the_parts_that_the_script_puts_in_place_are_those_of_the_page_and_escaped_as_well() -> None:
    world = evil()
    whole = page(world)
    told = ask(world, lambda caller: caller.get("/page"))
    assert set(told["parts"]) == {attributes["data-part"] for _, attributes in whole.tags if "data-part" in attributes} == set(PARTS)
    for part in told["parts"].values():
        seen = Page(part)
        assert not seen.named("script")
        assert not seen.named("img")
    assert told["news"].startswith("The sidecar is <script>")  # the script shows it as text


def test_what_the_form_is_filled_with_outlives_the_filter_and_the_other_way_round() -> None:
    seen = page(World(), url="http://a/b", header="x: y", filter="orders")
    hidden = {(field["name"], field["value"]) for field in seen.named("input") if field.get("type") == "hidden"}
    assert hidden == {("url", "http://a/b"), ("header", "x: y"), ("filter", "orders")}


def test_without_scripts_the_page_reloads_itself_only_when_asked_to() -> None:
    assert not [tag for tag in page(World()).named("meta") if "http-equiv" in tag]
    (reload,) = [tag for tag in page(World(), refresh="on", url="/").named("meta") if "http-equiv" in tag]
    assert reload == {"http-equiv": "refresh", "content": "5"}


def test_the_form_explains_a_request_without_scripts() -> None:
    seen = page(World(), method="GET", url="http://orders.shop.svc/v1/items", header="x-tenant: a", listener="inbound")
    assert "orders (built-in): matches by hostname orders.shop.svc" in seen.text
    assert {"name": "url", "value": "http://orders.shop.svc/v1/items"}.items() <= next(
        field for field in seen.named("input") if field["name"] == "url"
    ).items()


def test_a_question_that_cannot_be_answered_is_told_on_the_page() -> None:
    assert "is not a URL" in page(World(), url="orders").text


def test_the_page_is_made_for_assistive_technology() -> None:
    seen = page(World(), url="/")
    assert seen.named("html")[0]["lang"] == "en"
    assert seen.named("main")
    assert all(heading["scope"] == "col" for heading in seen.named("th"))
    assert len(seen.named("caption")) == len(seen.named("table"))
    sections = {section["aria-labelledby"] for section in seen.named("section")}
    assert sections == {heading["id"] for heading in seen.named("h2")}
    assert seen.text.count("Method") == 1


def test_of_5000_routes_the_first_are_shown_and_a_filter_finds_the_others() -> None:
    world = World()
    world.config = active(with_routes(5000))
    seen = page(world)
    assert len(seen.named("tr")) < 60
    assert "5,000 routes; the busiest 40 are shown" in seen.text
    found = page(world, filter="R/4321")
    assert "1 of 5,000 routes match." in found.text
    assert "PathPrefix /r/4321" in found.text


def test_the_busiest_routes_are_those_that_are_shown() -> None:
    world = World()
    world.config = active(with_routes(100))
    bounds = (0.1, 1.0)
    world.traffic = lambda: iter([TrafficCount(("inbound", f"r{n}", "app"), n, 0, bounds, (n, 0, 0)) for n in range(60, 100)])
    names = re.findall("<b>(r[0-9]+)</b>", ask(world, lambda caller: caller.get("/")))
    assert names == [f"r{n}" for n in range(99, 59, -1)]


def test_requests_that_no_route_got_have_a_row() -> None:
    world = World()
    world.traffic = lambda: iter([TrafficCount(("inbound", "", ""), 75, 15, (0.1,), (75, 0))])
    text = page(world).text
    assert "no route requests that no route got \u2013 1.0 20.0% 50 ms 95 ms 75" in text


def test_a_failure_says_how_to_ask_why_and_what_would_happen_now() -> None:
    world = World()
    failure = {
        "requestId": "r&1",
        "method": "GET",
        "authority": "orders.shop.svc",
        "path": "/v1/a b",
        "listener": "outbound",
        "status": 504,
    }
    told = {
        "reason": "http_response_timeout",
        "clock": "responseHeader",
        "durationMs": 402.1,
        "attempts": [{}, {}],
        "time": "2026-11-22T10:11:12.131Z",
    }
    world.recent = {"failures": [{**failure, **told}]}
    seen = page(world)
    assert "10:11:12 GET orders.shop.svc/v1/a b outbound 504 402 ms, 2 tries" in seen.text
    assert "✗ http_response_timeout clock responseHeader outrider why r&1 explain" in seen.text
    (link,) = [attributes["href"] for attributes in seen.named("a") if str(attributes["href"]).startswith("/?method")]
    assert link == "/?method=GET&listener=outbound&url=http%3A%2F%2Forders.shop.svc%2Fv1%2Fa+b#explain"


def test_the_page_is_there_before_the_first_document() -> None:
    world = World()
    world.config = None
    assert "No valid document has come yet" in page(world, url="/").text


def test_looking_through_thousands_of_routes_lets_others_work_in_between() -> None:
    world = World()
    world.config = active(with_routes(5000))
    counts = [TrafficCount(("inbound", f"r{n}", "app"), n + 1, 0, (0.1,), (n + 1, 0)) for n in range(5000)]
    world.traffic = lambda: iter(counts)

    async def use() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        history = History(world.traffic)
        await Board(world.context(), history).look("r/4999")
        await history.aclose()
        await cancel_and_wait([counting])
        return turns

    turns = uvloop.run(use())
    slices = 5000 / board.SLICE + 2 * 5000 / SLICE  # the routes, the counters, and their plots
    assert turns > 0.8 * slices


def test_the_packages_files_are_those_that_the_page_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert {f"sidecar/admin/static/{name}" for name in ("page.css", "page.js", "logo.svg")} <= set(packed.namelist())

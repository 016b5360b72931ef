"""The page for people."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urlencode

from admin_fakes import Check, World, active, ask, with_routes

from sidecar.admin.context import RejectedConfig
from sidecar.config.problem import Problem

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
_VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Collects tags and text, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

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
    world.checks = [Check(name="config", ok=False, detail="no valid document")]
    world.rejected = RejectedConfig(source="file", revision="8", rejected_at=1.0, problems=(Problem("routes[0].name", 3, 5, "wrong"),))
    world.config = None
    text = page(world).text
    assert "✗ config" in text
    assert "no valid document" in text
    assert "routes[0].name" in text


def test_nothing_on_the_page_comes_from_elsewhere_or_runs() -> None:
    seen = page(World())
    assert not seen.named("script")
    assert not [tag for tag, attributes in seen.tags if any(name.startswith("on") or name == "style" for name in attributes)]
    targets = [attributes.get("href") or attributes.get("src") or attributes.get("action") for _, attributes in seen.tags]
    assert all(target.startswith(("/", "data:,")) for target in targets if target)


def test_the_content_security_policy_permits_exactly_the_style_that_is_sent() -> None:
    _, text, response = ask(World(), lambda caller: caller.send("GET", "/"))
    style = re.search("<style>(.*)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy


def test_every_value_is_escaped() -> None:
    world = World()
    world.problem = EVIL
    world.checks = [Check(name=EVIL, ok=False, detail=EVIL)]
    world.rejected = RejectedConfig(source=EVIL, revision=EVIL, rejected_at=1.0, problems=(Problem(EVIL, 3, 5, EVIL),))
    world.recent = {"failures": [{"path": EVIL, "requestId": EVIL}]}
    seen = page(world, method=EVIL, url=EVIL, header=EVIL, listener=EVIL)
    assert not seen.named("script")
    assert not seen.named("img")
    assert EVIL in [field.get("value") for field in seen.named("input")]


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
    sections = {section["aria-labelledby"] for section in seen.named("section")}
    assert sections == {heading["id"] for heading in seen.named("h2")}
    assert seen.text.count("Method") == 1


def test_5000_routes_do_not_make_the_page_endless() -> None:
    world = World()
    world.config = active(with_routes(5000))
    seen = page(world)
    assert len(seen.named("tr")) < 250
    assert "4800 more" in seen.text


def test_the_page_is_there_before_the_first_document() -> None:
    world = World()
    world.config = None
    assert "No valid document has come yet" in page(world, url="/").text

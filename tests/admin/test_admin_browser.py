"""The page for people in a real Chromium, over a real sidecar with traffic."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import Browser, need_chromium
from support.sidecar import Sidecar

HERE = Path(__file__).parent
AUDIT = (HERE / "page_audit.js").read_text("utf-8")
PATIENCE = 60.0
"""Seconds that something on the page may take to appear."""


def document(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "mode": "Reverse"}],
        "upstreams": [{"name": "shop", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "routes": [
            {"name": "all", "backendRefs": [{"name": "shop"}]},
            {
                "name": "sluggish",
                "matches": [{"path": {"value": "/slow"}}],
                "backendRefs": [{"name": "shop"}],
                "timeouts": {"responseHeader": "50ms"},
            },
        ],
    }


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    """A sidecar that requests go through all the time; some fail."""
    need_chromium()
    command = [sys.executable, str(HERE / "admin_traffic.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as traffic:
        assert traffic.stdin is not None
        assert traffic.stdout is not None
        with Sidecar(document(int(traffic.stdout.readline()))) as running:
            print(running.port(), file=traffic.stdin, flush=True)
            yield running
            traffic.stdin.close()
            traffic.wait(10)


@pytest.fixture(scope="module")
def window(sidecar: Sidecar) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(window: Browser, sidecar: Sidecar) -> Browser:
    """The page, freshly loaded, with live numbers; nothing in the console so far."""
    window.emulate()
    window.log("browser")
    window.log("performance")
    window.open(f"http://127.0.0.1:{sidecar.admin_port}/")
    until(lambda: "the last 10 seconds" in text(window, "span"))
    return window


def until(so: Callable[[], Any]) -> Any:
    """What `so` returns once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := so()):
        assert time.monotonic() < deadline, "did not appear on the page"
        time.sleep(0.05)
    return found


def text(browser: Browser, part: str) -> str:
    return str(browser.run("return document.querySelector(`[data-part=${arguments[0]}]`).innerText", part))


def row(browser: Browser, route: str) -> list[str]:
    """The cells of a route."""
    script = "return [...document.querySelectorAll('.routes tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    return next((cells for cells in browser.run(script) if cells[0].split("\n")[0] == route), [])


def total(browser: Browser) -> int:
    return int(row(browser, "all")[-1].replace(",", ""))


def requested(browser: Browser) -> list[str]:
    """The URLs that were asked for since the last time, without those of the browser's own first page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith("chrome:")]


def quiet(browser: Browser) -> None:
    """Nothing was complained about in the console, and nothing was asked of anybody but the sidecar."""
    assert browser.log("browser") == []
    asked = requested(browser)
    assert asked
    base = browser.run("return location.origin + '/'")
    assert [url for url in asked if not url.startswith((base, "data:"))] == []


def test_the_page_shows_live_numbers_and_plots_without_being_loaded_again(page: Browser) -> None:
    page.run("window.here = true")
    before = total(page)
    until(lambda: total(page) > before)
    until(lambda: row(page, "all")[3] not in ("0", ""))
    assert float(row(page, "all")[3]) > 0
    assert row(page, "all")[5].endswith("%")
    assert row(page, "all")[6].endswith("ms")
    until(lambda: page.run("return document.querySelectorAll('[data-part=tiles] svg path').length >= 4"))
    assert page.run("return document.querySelectorAll('.routes svg path').length > 0")
    assert page.run("return window.here") is True
    quiet(page)


def test_upstreams_show_their_endpoints_and_the_process_its_gauges(page: Browser) -> None:
    upstreams, runtime = text(page, "upstreams"), text(page, "runtime")
    assert "✓ healthy" in upstreams
    assert "Retries left" in upstreams
    assert "of" in runtime
    assert page.run("return document.querySelector('[data-part=runtime] meter').value") > 0
    assert "✓ ready" in text(page, "state")
    assert "listening" in text(page, "listeners")


def test_a_failure_appears_with_its_clock_and_the_command_that_tells_why(page: Browser, sidecar: Sidecar) -> None:
    until(lambda: "http_response_timeout" in text(page, "failures"))
    rows = page.run("return [...document.querySelectorAll('.failures tbody tr')].map((row) => row.innerText)")
    failed = next(one for one in rows if "http_response_timeout" in one)
    assert "504" in failed
    assert "clock responseHeader" in failed
    assert "sluggish" in failed
    command = next(line for line in failed.replace("\t", "\n").splitlines() if line.startswith("outrider why"))
    request_id = command.split()[2]
    why = [sys.executable, "-m", "sidecar", "why", request_id, "--admin", f"127.0.0.1:{sidecar.admin_port}"]
    told = subprocess.run(why, capture_output=True, text=True, timeout=30, check=True).stdout
    assert request_id in told
    assert "responseHeader" in told


def test_the_explain_form_answers_by_keyboard_alone(page: Browser) -> None:
    url = page.driver.find_element("css selector", "form input[name=url]")
    url.send_keys("http://shop.example/slow/down", Keys.ENTER)
    until(lambda: page.run("return document.querySelector('#explain ~ pre') !== null"))
    answer = page.run("return document.querySelector('#explain ~ pre').innerText")
    assert "sluggish" in answer
    assert "50ms" in answer
    assert page.run("return location.hash") == "#explain"
    assert page.run("return document.querySelector('input[name=url]').value") == "http://shop.example/slow/down"
    quiet(page)


def test_the_filter_chooses_routes_while_one_types_and_keeps_the_focus(page: Browser) -> None:
    page.run("window.here = true")
    box = page.driver.find_element("id", "filter")
    box.send_keys("slug")
    until(lambda: row(page, "sluggish") and not row(page, "all"))
    assert "1 of 2 routes match" in text(page, "routes")
    assert page.run("return document.activeElement.id") == "filter"
    box.send_keys(Keys.ENTER)
    assert page.run("return window.here") is True
    assert page.run("return document.getElementById('filter').value") == "slug"


def test_the_updates_can_be_paused(page: Browser) -> None:
    page.driver.find_element("id", "pause").click()
    assert page.run("return document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    shown = text(page, "routes")
    page.run("window.fetch = () => { window.asked = true; return Promise.reject(new Error('paused')); }")
    time.sleep(2.5)  # longer than the page waits between two looks
    assert page.run("return window.asked") is None
    assert text(page, "routes") == shown


def test_the_page_says_when_nobody_answers_and_goes_on_when_somebody_does(page: Browser) -> None:
    limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.command("Network.enable")
    page.command("Network.emulateNetworkConditions", offline=True, **limits)
    try:
        until(lambda: page.run("return document.getElementById('link').innerText") == "no answer")
        assert page.run("return document.getElementById('news').textContent") == "The sidecar does not answer."
    finally:
        page.command("Network.emulateNetworkConditions", offline=False, **limits)
    until(lambda: page.run("return document.getElementById('link').innerText") == "live")
    assert str(page.run("return document.getElementById('news').textContent")).startswith("The sidecar is ready")
    page.log("browser")  # the failed requests


def test_a_refused_document_is_announced_and_shown(page: Browser, sidecar: Sidecar) -> None:
    good = sidecar.config.read_text()
    sidecar.config.write_text(good.replace('"sluggish"', '"all"').replace("sluggish", "all"))
    try:
        until(lambda: "was refused" in text(page, "configuration"))
        assert "routes[1]" in text(page, "configuration")
        assert "refused" in page.run("return document.getElementById('news').textContent")
        assert page.run("return document.getElementById('news').getAttribute('aria-live')") == "polite"
    finally:
        sidecar.config.write_text(good)
    until(lambda: "was refused" not in text(page, "configuration"))


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_follows_the_readers_colours_and_is_legible_in_both(page: Browser, scheme: str, dark: bool) -> None:
    page.emulate(scheme=scheme)
    until(lambda: "http_response_timeout" in text(page, "failures"))
    red = int(page.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)[0]"))
    assert (red < 64) is dark
    assert page.run(AUDIT) == []


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("document.body.style.color = '#888'", "contrast"),
        ("document.querySelector('label').replaceWith(...document.querySelector('label').children)", "no label"),
        ("document.querySelector('h2').outerHTML = '<h4>x</h4>'", "skips a heading level"),
        ("document.querySelector('caption').remove()", "a table without caption"),
        ("document.body.append(Object.assign(document.createElement('img'), {src: 'data:,'}))", "no alternative text"),
        ("document.querySelector('nav').id = 'main'", "an id is used twice"),
    ],
)
def test_the_checks_find_what_is_wrong(page: Browser, fault: str, complaint: str) -> None:
    page.run(fault)
    assert complaint in " ".join(page.run(AUDIT))


def test_the_answer_of_the_explain_form_passes_the_same_checks(page: Browser) -> None:
    page.open(f"{page.run('return location.origin')}/?method=GET&url=http://shop.example/slow")
    assert page.run(AUDIT) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_nothing_sticks_out_of_a_narrow_window(page: Browser, width: int) -> None:
    page.emulate(width=width, height=800)
    until(lambda: "http_response_timeout" in text(page, "failures"))
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return getComputedStyle(document.querySelector('.failures').parentElement).overflowX") == "auto"


def test_nothing_moves_for_those_who_do_not_want_it(page: Browser) -> None:
    name = "return getComputedStyle(document.getElementById('link'), '::before').animationName"
    until(lambda: page.run(name) == "beat")
    page.emulate(motion="reduce")
    assert page.run(name) == "none"


def test_the_keyboard_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(page: Browser) -> None:
    page.driver.find_element("id", "pause").click()  # parts that are replaced meanwhile would not be the same elements
    page.run("document.activeElement.blur(); getSelection().removeAllRanges()")
    page.open(page.run("return location.href"))
    page.run("document.getElementById('pause').click()")
    focusable = "a[href], button, input:not([type=hidden]), select, [tabindex='0']"
    page.run(f"window.reach = [...document.querySelectorAll(`{focusable}`)].filter((one) => one.checkVisibility())")
    count = page.run("return window.reach.length")
    assert count > 25
    body = page.driver.find_element("tag name", "body")
    order = []
    for _ in range(count):
        (body if not order else page.driver.switch_to.active_element).send_keys(Keys.TAB)
        order.append(page.run("return window.reach.indexOf(document.activeElement)"))
        outline = page.run("const style = getComputedStyle(document.activeElement); return style.outlineStyle + style.outlineWidth")
        assert outline not in ("none0px", "none3px", "solid0px"), page.run("return document.activeElement.outerHTML.slice(0, 80)")
    assert order == list(range(count))


def test_the_first_tab_leads_past_the_navigation(page: Browser) -> None:
    page.driver.find_element("tag name", "body").send_keys(Keys.TAB)
    assert page.run("return document.activeElement.innerText") == "Skip to the content"
    assert page.run("return document.activeElement.getBoundingClientRect().top") >= 0
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: page.run("return document.activeElement.id") == "main")


def test_without_scripts_the_essentials_are_there(sidecar: Sidecar) -> None:
    base = f"http://127.0.0.1:{sidecar.admin_port}/"
    with Browser(scripts=False) as browser:
        browser.open(base)
        body = browser.driver.find_element("tag name", "body").text
        for words in (
            "✓ ready",
            "PathPrefix /slow",
            "✓ healthy",
            "http_response_timeout",
            "outrider why",
            "Log level",
            "listening",
            "Refresh",
        ):
            assert words in body
        assert not browser.driver.find_element("id", "pause").is_displayed()
        url = browser.driver.find_element("css selector", "form input[name=url]")
        url.send_keys("http://shop.example/slow")
        url.submit()
        assert "sluggish" in browser.driver.find_element("css selector", "pre").text
        browser.driver.find_element("id", "filter").send_keys("slug", Keys.ENTER)
        until(lambda: "filter=slug" in browser.driver.current_url)
        assert "1 of 2 routes match" in browser.driver.find_element("css selector", "[data-part=routes]").text
        assert browser.driver.find_element("css selector", "form input[name=url]").get_attribute("value") == "http://shop.example/slow"
        asked = requested(browser)
        assert [url for url in asked if not url.startswith((base, "data:"))] == []
        assert not [url for url in asked if "/page" in url]

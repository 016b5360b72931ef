"""A real Chromium, driven by selenium: for the tests of the admin page and for its pictures."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # Chromium's own sandbox does not start as root, and what it shows here is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def chromium() -> tuple[str, str] | None:
    """The browser and its driver (Debian's names first), or None; $CHROMIUM and $CHROMEDRIVER name others."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def need_chromium() -> None:
    """Skips the test, with one line that says how to get it, when there is no Chromium."""
    if chromium() is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver, or name them in CHROMIUM and CHROMEDRIVER")


class Browser:
    """`with Browser() as browser:` one window, an empty profile, nothing reachable but loopback."""

    def __init__(self, *, scripts: bool = True) -> None:
        self._scripts = scripts

    def __enter__(self) -> Self:
        found = chromium()
        if found is None:
            raise SystemExit("no Chromium: apt-get install chromium chromium-driver")
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-chromium-", ignore_cleanup_errors=True)
        options = Options()
        options.binary_location = found[0]
        for flag in (*FLAGS, f"--user-data-dir={Path(self._folder.name) / 'profile'}", "--window-size=1440,1080"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not self._scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        self.driver = webdriver.Chrome(options=options, service=Service(found[1], log_output=os.devnull))
        self.driver.set_page_load_timeout(20)
        self.driver.set_script_timeout(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.driver.quit()
        self._folder.cleanup()

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self.driver.execute_script(script, *arguments)

    def emulate(self, *, scheme: str = "light", width: int = 1440, height: int = 1080, motion: str = "no-preference") -> None:
        """What the reader prefers, and the size of the window in CSS pixels (1.5 times as many real ones)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1.5, mobile=width < 600)

    def command(self, name: str, **parameters: object) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: `browser` (the console) or `performance` (DevTools events)."""
        return list(self.driver.get_log(kind))  # type: ignore[no-untyped-call]

"""Vulnerabilities of locked packages as the package index tells them: its JSON API, for when there is no copy of a database.

The index is the one that pip is configured with. It is asked about one version; an index that only tells of the newest one says
something about a package that is locked at its newest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from tools.locked import Package

TIMEOUT: Final = 20.0
MAX_BYTES: Final = 32 * 1024 * 1024
_DEFAULT: Final = "https://pypi.org/simple"

Fetch = Callable[[str], bytes | None]
"""The document at a URL; None: there is none. Raises OSError."""


def index_url() -> str:
    """Where the JSON API is: the index of pip's configuration, without its `/simple`. May have credentials in it: for no output."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    lines = [line.partition("=")[2].strip().strip("'\"") for line in said.splitlines() if line.partition("=")[0].endswith("index-url")]
    urls = [line for line in lines if "extra" not in line]
    return (urls[-1] if urls else _DEFAULT).rstrip("/").removesuffix("/simple")


def fetch(url: str) -> bytes | None:
    """See Fetch."""
    if not url.startswith(("https://", "http://")):
        raise OSError("the index is not reached by HTTP")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return bytes(answer.read(MAX_BYTES))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def vulnerabilities(package: Package, base: str, get: Fetch = fetch) -> list[dict[str, Any]] | None:
    """What the index knows against this version; None: it does not say. Raises OSError, ValueError."""
    exact = get(f"{base}/pypi/{package.name}/{package.version}/json")
    text = exact if exact is not None else get(f"{base}/pypi/{package.name}/json")
    if text is None:
        return None
    document = json.loads(text)
    if exact is None and document["info"]["version"] != package.version:
        return None
    return [one for one in document.get("vulnerabilities", []) if not one.get("withdrawn")]

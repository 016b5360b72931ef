"""The `Proxy-Status` field of our own replies (RFC 9209), a structured field (RFC 9651)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.model.reason import Reason

_unprintable: Final = re.compile(r"[^ -~]")
_special: Final = re.compile(r'(["\\])')


def render(reason: Reason, details: Mapping[str, object] | None = None) -> bytes:
    """The field's value; `details` become `details="key=value ..."`, in their order."""
    value = f"outrider; error={reason.value}"
    if details:
        text = " ".join(f"{key}={item}" for key, item in details.items())
        value += f'; details="{_escaped(text)}"'
    return value.encode("ascii")


def _escaped(text: str) -> str:
    """As the inside of an sf-string: printable ASCII only, quotes and backslashes escaped."""
    return _special.sub(r"\\\1", _unprintable.sub("?", text))

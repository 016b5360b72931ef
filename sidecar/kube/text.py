"""Foreign text in messages for people: one line, printable, short."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 400


def one_line(text: str | bytes, cap: int = MAX_TEXT) -> str:
    """The text without line ends and control characters; cut with `...` after `cap` characters."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    clean = " ".join("".join(char if char.isprintable() else " " for char in text[: cap * 4]).split())
    return clean if len(clean) <= cap else clean[:cap] + "..."

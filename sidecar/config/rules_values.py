"""What a rule finds: a place and a sentence; and the rule that a text must be readable by one of `values`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sidecar.config.problem import Path

Finding = tuple[Path, str]


def attempt(path: Path, read: Callable[[str], object], text: str) -> Iterator[Finding]:
    """What `read` has to say against `text`."""
    try:
        read(text)
    except ValueError as error:
        yield path, str(error)

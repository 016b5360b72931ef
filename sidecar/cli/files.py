"""Reading what a command is given: a file or standard input, never more than a document can have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidecar.errors import UsageError

STDIN: Final = "-"


def read(name: str, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a file, `-` for standard input. Raises UsageError when it cannot be read."""
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(limit + 1)
        with Path(name).open("rb") as file:
            return file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise cannot_read(name, error) from None


def cannot_read(name: str, error: OSError | ValueError) -> UsageError:
    """The error that tells why `name` cannot be read."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"cannot read {shown_name(name)}: {words.lower()}")


def shown_name(name: str) -> str:
    """The name of a file in messages."""
    return "<stdin>" if name == STDIN else name

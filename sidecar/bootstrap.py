"""Bootstrap: what cannot change while the sidecar runs. Flags and variables become one of these (cli/run.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.server.sockets import SocketAddress, parse_address

OFF: Final = "off"
STATE_DIR: Final = Path("/var/lib/outrider")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """The settings of `outrider run` (interface.md section 1)."""

    config: Path
    status_address: SocketAddress
    admin_address: SocketAddress | None
    """None: no admin surface."""
    state_dir: Path | None
    """Where the last good document is kept; None: nowhere."""
    log_level: str = "info"
    log_format: str = "auto"
    require_config: bool = False
    """Exit 78 when the first document is invalid, unreadable or absent, instead of waiting for a better one."""


def admin_address(text: str) -> SocketAddress | None:
    """`HOST:PORT`, `unix:PATH` or `off`. Raises ValueError."""
    return None if text == OFF else parse_address(text)


def state_dir(text: str) -> Path | None:
    """A folder, which need not exist yet, or `off`. Raises ValueError."""
    if text == OFF:
        return None
    folder = Path(text)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{text!r} is not a folder")
    return folder


def default_state_dir() -> Path | None:
    """`/var/lib/outrider` if it can be written to, else the user's state folder (XDG), else None."""
    if os.access(STATE_DIR, os.W_OK | os.X_OK):
        return STATE_DIR
    if base := os.environ.get("XDG_STATE_HOME", ""):
        return Path(base) / "outrider"
    try:
        return Path.home() / ".local" / "state" / "outrider"
    except RuntimeError:  # a container's user may have no home
        return None


def workers(text: str) -> int:
    """How many processes share the listeners. Raises ValueError."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"{text!r} is not a number of processes (write 1)")
    if int(text) > 1:
        raise ValueError(f"{text} processes are not supported in this version (write 1)")
    return 1


def unsupported(_text: str) -> str:
    """A flag whose feature has not been built. Raises ValueError."""
    raise ValueError("not supported in this version (use --config PATH)")


def switch(text: str) -> bool:
    """`true` or `false`, as a variable spells it. Raises ValueError."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")

"""Bootstrap: what cannot change while the sidecar runs. Flags and variables become one of these (cli/run.py)."""

from __future__ import annotations

import hashlib
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


def checked_state_dir(text: str) -> str:
    """A folder, which need not exist yet, or `off`. Raises ValueError."""
    if text != OFF and Path(text).exists() and not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a folder")
    return text


def state_dir(text: str | None, config: Path) -> Path | None:
    """Where the last good document of `config` is kept; `text` None: the default, see `_default_state_dir`."""
    if text is None:
        return _default_state_dir(config)
    return None if text == OFF else Path(text)


def _default_state_dir(config: Path) -> Path | None:
    """`/var/lib/outrider` if it can be written to, else a folder for this document in the user's state folder (XDG), else None.

    A container has one sidecar; a user's state folder may be shared by several, which must not serve each other's documents.
    """
    if os.access(STATE_DIR, os.W_OK | os.X_OK):
        return STATE_DIR
    try:
        base = Path(os.environ.get("XDG_STATE_HOME", "") or Path.home() / ".local" / "state")
    except RuntimeError:  # a container's user may have no home
        return None
    path = config.absolute()
    return base / "outrider" / f"{path.stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


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

"""What Python can raise nowhere: a line of our log like any other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sidecar.observe.logs import Event, logger

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def install() -> None:
    """For the rest of the process."""
    sys.unraisablehook = tell


def tell(told: UnraisableHookArgs) -> None:
    """Log it (see `sys.unraisablehook`), unless it is a client's doing, of which it could make us write without end.

    That is a name in a ClientHello that is not ASCII: `ssl` cannot decode it for its callback, prints a traceback and ends the
    handshake, which is counted and logged as any other that fails.
    """
    if isinstance(told.exc_value, UnicodeDecodeError) and isinstance(told.object, bytes):
        return
    error = told.exc_value
    info = None if error is None else (told.exc_type, error, told.exc_traceback)
    logger.error(
        "%s: %r",
        told.err_msg or "raised where nobody can catch it",
        told.object,
        exc_info=info,
        extra={"event": Event.INTERNAL_ERROR.value},
    )

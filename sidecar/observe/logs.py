"""The process's own log: the `logging` module on the outside, one JSON object (or one readable line) per record inside.

Goes through the same Output as the access log, so that lines never interleave. `event` is a closed list.
"""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from functools import partial
from typing import Any, Final, TextIO

from sidecar.errors import UsageError
from sidecar.observe.output import Output
from sidecar.observe.text import printable, utc

logger: Final = logging.getLogger("outrider")

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS: Final = ("auto", "json", "console")
STANDARD: Final = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "event", "fields"])
"""Attributes of a record that are not fields of ours."""
MAX_VALUE: Final = 16 * 1024
"""Characters of one value; a traceback fits."""


class Event(StrEnum):
    """Every `event` a log line can carry, besides `access`. Layers below this one name theirs in `extra={"event": ...}`."""

    STARTING = "starting"
    READY = "ready"
    CONFIG_APPLIED = "config_applied"
    CONFIG_REJECTED = "config_rejected"
    CONFIG_REVERTED = "config_reverted"
    """A rejected document has been replaced by the one that is active."""
    CONFIG_WARNING = "config_warning"
    CONFIG_SOURCE_LOST = "config_source_lost"
    CONFIG_SOURCE_BACK = "config_source_back"
    EVENT_REFUSED = "event_refused"
    """No Kubernetes Event can be written about a document."""
    LAST_GOOD_USED = "last_good_used"
    LAST_GOOD_FAILED = "last_good_failed"
    LISTENER_FAILED = "listener_failed"
    ENDPOINT_EJECTED = "endpoint_ejected"
    ENDPOINT_UNHEALTHY = "endpoint_unhealthy"
    ENDPOINT_RESTORED = "endpoint_restored"
    CIRCUIT_OPENED = "circuit_opened"
    CIRCUIT_CLOSED = "circuit_closed"
    DNS_FAILED = "dns_failed"
    SERVICE_FAILED = "service_failed"
    SERVICE_RESTORED = "service_restored"
    CERTIFICATE_LOADED = "certificate_loaded"
    CERTIFICATE_FAILED = "certificate_failed"
    HANDSHAKE_FAILED = "handshake_failed"
    CERTIFICATE_AUTHORITY_MADE = "certificate_authority_made"
    """The injector: a new authority for its own certificates is in its Secret."""
    CA_BUNDLE_WRITTEN = "ca_bundle_written"
    DEFAULTS_APPLIED = "defaults_applied"
    DEFAULTS_REJECTED = "defaults_rejected"
    POD_REFUSED = "pod_refused"
    SOCKETS_EXHAUSTED = "sockets_exhausted"
    OVERLOADED = "overloaded"
    """Memory or descriptors are short, and something is given up for it."""
    OVERLOAD_OVER = "overload_over"
    RESOURCE_LIMIT = "resource_limit"
    RESOURCE_RELIEVED = "resource_relieved"
    LOOP_BLOCKED = "loop_blocked"
    METRICS_EXPORT_FAILED = "metrics_export_failed"
    METRICS_EXPORT_BACK = "metrics_export_back"
    LOG_LEVEL_CHANGED = "log_level_changed"
    TRACING_WARNING = "tracing_warning"
    """A variable or a library that tracing cannot do with; the sidecar serves."""
    TRACE_EXPORT_FAILED = "trace_export_failed"
    TRACE_EXPORT_BACK = "trace_export_back"
    DRAINING = "draining"
    DRAINED = "drained"
    WORKER_STARTED = "worker_started"
    WORKER_EXITED = "worker_exited"
    STOPPED = "stopped"
    TASK_FAILED = "task_failed"
    OBSERVER_FAILED = "observer_failed"
    INTERNAL_ERROR = "internal_error"
    LOG = "log"
    """A record that names no event: a library's."""


def event(name: Event | str, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log `message` as event `name` with further fields (JSON-ready values). ValueError: not one of the list."""
    logger.log(level, "%s", message, extra={"event": Event(name).value, "fields": fields})


def set_level(level: str) -> None:
    """Change the level while running. ValueError: not one of `debug info warning error`."""
    if level not in LEVELS:
        raise ValueError(f"unknown log level {level!r} (one of {', '.join(LEVELS)})")
    logger.setLevel(LEVELS[level])


def get_level() -> str:
    """The level as `set_level` takes it."""
    return next((name for name, number in LEVELS.items() if number == logger.level), "info")


def is_console(log_format: str, stream: TextIO) -> bool:
    """What `--log-format` means for `stream`: `auto` is for people on a terminal, JSON elsewhere."""
    return log_format == "console" or (log_format == "auto" and stream.isatty())


def setup(
    level: str = "info", log_format: str = "auto", stream: TextIO | None = None, *, turn: int | None = None, worker: int | None = None
) -> Output:
    """Send all logging to `stream` (stdout), libraries' from warnings on. Returns the output for the access log to share.

    The output is closed at the process's exit, or earlier by whoever calls this. UsageError: unknown level or format, or
    a stream that is closed or has no file descriptor. `turn`: see Output; `worker`: its number, a field of every line but the
    access log's. A second call takes the place of the first and closes its output.
    """
    stream = sys.stdout if stream is None else stream
    if level not in LEVELS:
        raise UsageError(f"--log-level: {level!r} is not one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise UsageError(f"--log-format: {log_format!r} is not one of {', '.join(FORMATS)}")
    try:
        stream.flush()
        output = Output(stream.fileno(), turn=turn)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the log: {error}") from error
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, LineHandler)]:
        root.removeHandler(old)
        old.close()
    handler = LineHandler(output, console=is_console(log_format, stream))
    if worker is not None:
        handler.addFilter(partial(_name_worker, worker))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)
    return output


def _name_worker(worker: int, record: logging.LogRecord) -> bool:
    record.fields = {"worker": worker, **getattr(record, "fields", {})}
    return True


class LineHandler(logging.Handler):
    """Renders a record as one line and queues it; never blocks."""

    def __init__(self, output: Output, *, console: bool) -> None:
        super().__init__()
        self._output = output
        self._render = console_line if console else json_line

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line; a record that cannot be rendered is reported the way `logging` does."""
        try:
            self._output.write(self._render(record))
        except Exception:  # noqa: BLE001 - logging must not break what it reports on
            self.handleError(record)

    def close(self) -> None:
        """Write what is queued; `logging` calls it at exit, so the last words of a crash are not lost."""
        self._output.close()
        super().close()


def json_line(record: logging.LogRecord) -> bytes:
    """`time level event message`, the event's fields, and what went wrong; ASCII, so nothing can look like a line's end."""
    document: dict[str, Any] = {
        "time": utc(record.created),
        "level": record.levelname.lower(),
        "event": _event(record),
        "message": record.getMessage()[:MAX_VALUE],
    }
    for name, value in _fields(record).items():
        document.setdefault(name, value)
    if record.name != logger.name:
        document["logger"] = record.name
    if told := _exception(record):
        document["exception"] = told
    return json.dumps(document, default=str).encode() + b"\n"


def console_line(record: logging.LogRecord) -> bytes:
    """`12:34:56.789 info  ready: message name=value`; a traceback follows, indented."""
    fields = [
        f"{name}={value if isinstance(value, str | int | float) else json.dumps(value, default=str)}"
        for name, value in getattr(record, "fields", {}).items()
    ]
    text = (
        f"{utc(record.created)[11:-1]} {record.levelname.lower():<7} {_event(record)}: {record.getMessage()[:MAX_VALUE]} {' '.join(fields)}"
    )
    lines = [printable(text.rstrip()), *(f"    {printable(line)}" for line in _exception(record).splitlines())]
    return "\n".join(lines).encode("utf-8", "backslashreplace") + b"\n"


def _event(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", Event.LOG.value))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `event` was given, and whatever else came in `extra`."""
    further = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {**getattr(record, "fields", {}), **further}


def _exception(record: logging.LogRecord) -> str:
    """The traceback, its end (which says what happened) when it is too long; "" when there is none."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return logging.Formatter().formatException(record.exc_info)[-MAX_VALUE:]

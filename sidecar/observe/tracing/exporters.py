"""Who sends spans: which exporter, what it is given, and what is said when it is not installed."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.errors import OutriderError
from sidecar.observe.tracing.record import Record
from sidecar.observe.tracing.settings import Kind, Settings, Warn

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from sidecar.observe.tracing.otlp import BatchSender

_SESSION: Final = "OTEL_PYTHON_EXPORTER_OTLP_{}CREDENTIAL_PROVIDER"
"""Names a plug-in that makes the session of `requests` that the SDK's exporter sends with; `HTTP_` or `HTTP_TRACES_`."""
_EXTRA: Final = {Kind.HTTP: "tracing", Kind.GRPC: "tracing,otlp-grpc", Kind.CONSOLE: "tracing"}
_SAID: Final = 500
"""Characters of an exporter's complaint that are repeated."""


class TracingUnavailable(OutriderError):
    """Tracing is asked for and cannot be had; the text is a sentence for whoever asked."""


class LastWords(logging.Handler):
    """Keeps what a library said last, by thread, instead of logging it: who exports says once what is wrong, not for every batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = threading.local()

    @property
    def text(self) -> str:
        """What was said last in the calling thread."""
        return getattr(self._said, "text", "")

    @text.setter
    def text(self, text: str) -> None:
        self._said.text = text

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.text = record.getMessage()[:_SAID]


last_words: Final = LastWords()


def unavailable(kind: Kind, error: Exception) -> TracingUnavailable:
    """What is said when tracing cannot be set up: a library is not there, or cannot read one of its variables."""
    if isinstance(error, ImportError):
        return TracingUnavailable(
            f"this installation cannot export spans: {error.name or 'a library'} is missing (pip install 'outrider[{_EXTRA[kind]}]', or exporter: None)"
        )
    return TracingUnavailable(f"spans cannot be exported: {type(error).__name__}: {error} (look at the OTEL_* variables)")


class Exporter(Protocol):
    """What a pipeline sends with. Everything but `abandon` is called by its thread."""

    def encode(self, item: Record | ReadableSpan) -> Sequence[Any]:
        """The spans of one exchange, or one that somebody else has made, as `export` wants them. Whatever it raises costs these spans."""
        ...

    def export(self, spans: Sequence[Any]) -> str:
        """Send; "" when they have been taken, else why they are lost. Bounded in time; does not raise."""
        ...

    def abandon(self) -> None:
        """From any thread: an `export` that waits may end now."""
        ...

    def shutdown(self) -> None:
        """Nothing follows."""
        ...


def make_exporter(settings: Settings, resource: Resource, warn: Warn) -> Exporter:
    """Imports libraries: call it in a thread. Raises ImportError, or what the libraries raise about their variables.

    `warn` hears of variables that they do without.
    """
    listen()
    last_words.text = ""
    exporter = _make(settings, resource, warn)
    if last_words.text:
        warn(last_words.text)
    return exporter


def _make(settings: Settings, resource: Resource, warn: Warn) -> Exporter:
    own_session = settings.kind is Kind.HTTP and any(os.environ.get(_SESSION.format(kind)) for kind in ("HTTP_", "HTTP_TRACES_"))
    if own_session or settings.kind is Kind.CONSOLE:
        from sidecar.observe.tracing.sdk import SdkExporter  # noqa: PLC0415 - loaded when it is used

        return SdkExporter(_of_sdk(settings), resource, settings.methods)
    from sidecar.observe.tracing.otlp import Otlp  # noqa: PLC0415 - as above

    return Otlp(_sender(settings, warn), resource, settings.methods)


def _sender(settings: Settings, warn: Warn) -> BatchSender:
    if settings.kind is Kind.GRPC:
        from sidecar.observe.tracing.grpc_sender import GrpcSender  # noqa: PLC0415 - heavy

        return GrpcSender(settings.endpoint)
    from sidecar.observe.tracing.destination import read  # noqa: PLC0415 - loaded when it is used
    from sidecar.observe.tracing.sender import Sender  # noqa: PLC0415 - as above

    return Sender(read(settings.endpoint, os.environ, warn))


def _of_sdk(settings: Settings) -> SpanExporter:
    if settings.kind is Kind.HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http  # noqa: PLC0415 - heavy

        return Http(endpoint=settings.endpoint)
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415 - heavy

    return ConsoleSpanExporter(out=sys.stderr)  # stdout is the log's


def listen() -> None:
    """From now on what OpenTelemetry logs goes to `last_words` alone."""
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    if last_words not in library.handlers:
        library.addHandler(last_words)

"""Batches to a collector over gRPC, by the exporter of OpenTelemetry's SDK, which is given what we have encoded instead of spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.observe.tracing.exporters import last_words

_UNKNOWN: Final = 1
"""How many spans a batch has, for metrics of the SDK's that nobody reads here."""


class GrpcSender:
    """As `Sender` (sender.py): time-outs, tries, headers and certificates are the SDK's."""

    def __init__(self, endpoint: str | None) -> None:
        self._exporter = _OfBytes(endpoint=endpoint)

    def send(self, body: bytes) -> str:
        """Why the collector has not taken it; "" when it has."""
        last_words.text = ""
        try:
            if self._exporter.export(cast("Any", body)).name == "SUCCESS":
                return ""
        except Exception as error:  # noqa: BLE001 - a library's; whatever it is, these spans are gone and the next may fare better
            return f"{type(error).__name__}: {error}"
        return last_words.text or "no reason given"

    def close(self) -> None:
        """From any thread: a wait between tries ends."""
        self._exporter.shutdown()

    def end(self) -> None:
        """Nothing follows."""
        self._exporter.shutdown()


class _OfBytes(OTLPSpanExporter):
    """Parsing bytes takes a twentieth of what the SDK's own encoder takes."""

    def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
        return cast("ExportTraceServiceRequest", ExportTraceServiceRequest.FromString(cast("bytes", data)))

    def _count_data(self, data: Sequence[Any]) -> int:  # noqa: ARG002 - the interface's
        return _UNKNOWN

"""A collector of metrics: OTLP over HTTP/protobuf, in threads of its own."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


class Receiver:
    """A collector of ours: keeps what it is sent, answers with `status`; with `hold` set it does not answer before `release`."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.requests: list[ExportMetricsServiceRequest] = []
        self.hold = False
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.paths.append(self.path)
                receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
                if receiver.hold:
                    receiver.release.wait(20)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.block_on_close = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def points(self, name: str) -> list[tuple[dict[str, str], Any]]:
        """The data points of a metric in everything that came: (attributes, point)."""
        return [
            ({one.key: one.value.string_value for one in point.attributes}, point)
            for request in self.requests
            for metric in metrics_of(request)
            if metric.name == name
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]


def metrics_of(request: ExportMetricsServiceRequest) -> list[Any]:
    return [metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]

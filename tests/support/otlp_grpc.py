"""A collector of spans over gRPC, as a process of its own: grpcio leaves threads and descriptors behind.

`python -m support.otlp_grpc` prints its port, then the names of the spans of each export as a JSON list.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def grpc_collector() -> Iterator[tuple[str, IO[str]]]:
    """(URL, the lines that it prints)."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-m", "support.otlp_grpc"], stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.stdout
        finally:
            process.terminate()


def main() -> None:
    from concurrent import futures

    import grpc  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

    class Traces(service.TraceServiceServicer):
        def Export(  # noqa: N802 - the name that gRPC calls
            self, request: messages.ExportTraceServiceRequest, context: object
        ) -> messages.ExportTraceServiceResponse:
            names = [span.name for group in request.resource_spans for scoped in group.scope_spans for span in scoped.spans]
            print(json.dumps(names), flush=True)  # noqa: T201 - the way to whoever started us
            return messages.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201 - as above
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()

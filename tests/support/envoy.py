"""Envoy as a server that people have as an upstream: a gateway or another sidecar, in front of an origin of a few lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import peers

TYPE = "type.googleapis.com/envoy.extensions"
ORIGIN = '''
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    """Gives back the body that it gets, or the path, in chunks and with a trailer."""
    protocol_version = "HTTP/1.1"

    def _body(self):
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def do_GET(self):
        body = self._body() or self.path.encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "x-sum")
        self.end_headers()
        for start in range(0, len(body), 65536):
            piece = body[start:start + 65536]
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
        self.wfile.write(b"0\\r\\nx-sum: %d\\r\\n\\r\\n" % len(body))

    do_POST = do_GET

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''


def origin_command(folder: Path, port: int) -> list[str]:
    """The origin, listening on `port`."""
    (folder / "origin.py").write_text(ORIGIN)
    return [sys.executable, str(folder / "origin.py"), str(port)]


def envoy_command(folder: Path, port: int, origin: int, *, tls: dict[str, Any] | None = None, alpn: tuple[str, ...] = ()) -> list[str]:
    """Envoy on `port`, HTTP/1.1 and HTTP/2, idle connections ended after a second and every connection after seven requests.

    Its answers say in `x-protocol` and `x-tls` what was spoken. `tls`: Envoy's TlsParameters, with the pair `local` of `folder`. Skips the
    test where there is no Envoy.
    """
    binary = peers.find_envoy(fetch=False)
    if binary is None:
        pytest.skip("needs Envoy (python -c 'from bench import peers; peers.find_envoy(fetch=True)')")
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_protocol_options": {"enable_trailers": True},
        "common_http_protocol_options": {"idle_timeout": "1s", "max_requests_per_connection": 7},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
                    "response_headers_to_add": [
                        {"header": {"key": "x-protocol", "value": "%PROTOCOL%"}},
                        {"header": {"key": "x-tls", "value": "%DOWNSTREAM_TLS_VERSION%"}},
                    ],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": list(alpn),
                    "tls_params": tls,
                    "tls_certificates": [
                        {"certificate_chain": {"filename": f"{folder}/local.crt"}, "private_key": {"filename": f"{folder}/local.key"}}
                    ],
                },
            },
        }
    options = {
        "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
    }
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(origin)}}]}]},
    }
    listener = {"name": "in", "address": _address(port), "filter_chains": [chain]}
    (folder / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return [binary, "-c", str(folder / "envoy.json"), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

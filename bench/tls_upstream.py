"""TLS and versions of HTTP towards upstreams: each way there of each proxy, before one nginx that listens in every one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import peers
from bench.peers import HERE, Peer

SIZES = (2, 1024)
ORIGIN = """
{user} daemon off; worker_processes 1; pid {folder}/origin.pid; error_log {folder}/origin.err;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; keepalive_requests 100000000; keepalive_timeout 1h;
  root {folder}; default_type application/octet-stream; add_header X-Resumed $ssl_session_reused;
  ssl_certificate {folder}/pair.crt; ssl_certificate_key {folder}/pair.key; ssl_protocols TLSv1.3; ssl_verify_client optional_no_ca;
  server {{ listen 127.0.0.1:{plain}; }}
  server {{ listen 127.0.0.1:{h2c} http2; }}
  server {{ listen 127.0.0.1:{tls} ssl http2; }}
  server {{ listen 127.0.0.1:{full} ssl; keepalive_timeout 0; ssl_session_tickets off; ssl_session_cache off; }}
  server {{ listen 127.0.0.1:{resumed} ssl; keepalive_timeout 0; ssl_session_tickets on; }}
}}
"""
"""`full` and `resumed` close after each answer, so that the next request costs whoever sends it a handshake."""


@dataclass(frozen=True, slots=True)
class Way:
    """How requests reach the origin: `port` names one of its listeners; `client` and `protocol` are ours."""

    port: str
    tls: bool = False
    http2: bool = False
    client: str = "Native"

    @property
    def name(self) -> str:
        version = "HTTP/2" if self.http2 else "HTTP/1.1"
        return f"{version}, TLS" if self.tls else version


PLAIN, TLS = Way("plain"), Way("tls", tls=True)
H2C, TLS_HTTP2 = Way("h2c", http2=True), Way("tls", tls=True, http2=True)
FULL, RESUMED = Way("full", tls=True), Way("resumed", tls=True)
OURS = {
    "Native": (PLAIN, TLS),
    "Aiohttp": (replace(PLAIN, client="Aiohttp"), replace(TLS, client="Aiohttp")),
    "Httpx": tuple(replace(way, client="Httpx") for way in (PLAIN, TLS, H2C, TLS_HTTP2)),
}
THEIRS = {"envoy": (PLAIN, TLS, H2C, TLS_HTTP2), "haproxy": (PLAIN, TLS, H2C, TLS_HTTP2), "nginx": (PLAIN, TLS)}
"""nginx speaks no HTTP/2 to upstreams."""


@contextmanager
def origin(folder: Path) -> Iterator[dict[str, int]]:
    """The nginx; yields its ports by name. `folder` has the pair that it shows."""
    ports = {name: peers.free_port() for name in ("plain", "h2c", "tls", "full", "resumed")}
    (folder / "bytes").mkdir(exist_ok=True)
    for size in SIZES:
        (folder / "bytes" / str(size)).write_bytes(b"x" * size)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "origin.conf").write_text(ORIGIN.format(user=user, folder=folder, **ports))
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise RuntimeError("the upstream of this table is an nginx (apt-get install nginx-light)")
    process = subprocess.Popen(
        [binary, "-p", str(folder), "-c", str(folder / "origin.conf")], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        peers._wait_until_it_answers(ports["plain"], process)
        yield ports
    finally:
        process.terminate()
        process.wait()


def to(peer: Peer, way: Way, folder: Path) -> Peer:
    """The peer, with its configuration changed to go that way. Raises RuntimeError when that is not what it was."""
    text = (HERE / "configs" / peer.config).read_text()
    for old, new in _changes(peer.config, way, folder):
        if old not in text:
            raise RuntimeError(f"{peer.config} is not what it was: it has no {old!r}")
        text = text.replace(old, new)
    made = folder / f"{way.port}-{way.client}-{way.http2}-{peer.config}"
    made.write_text(text)
    return replace(peer, config=str(made))


def _changes(config: str, way: Way, folder: Path) -> list[tuple[str, str]]:
    ca = folder / "pair.crt"
    if config == "outrider.yaml":
        return [_outrider(way, ca)]
    if config == "envoy.yaml":
        return [("      lb_policy: LEAST_REQUEST\n", "      lb_policy: LEAST_REQUEST\n" + _envoy(way, ca))]
    if config == "haproxy.cfg":
        secure = (
            f" ssl verify required ca-file {ca} alpn {'h2' if way.http2 else 'http/1.1'}" if way.tls else " proto h2" if way.http2 else ""
        )
        return [("server origin 127.0.0.1:@ORIGIN@", f"server origin 127.0.0.1:@ORIGIN@{secure}")]
    if not way.tls:
        return []
    verify = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name bench; proxy_ssl_protocols TLSv1.3;"
    return [("proxy_pass http://origin;", f"proxy_pass https://origin; {verify}")]


def _outrider(way: Way, ca: Path) -> tuple[str, str]:
    scheme = "https" if way.tls else "http"
    protocol = ("HTTP2" if way.tls else "H2C") if way.http2 else "HTTP1"
    lines = [f'targets: [{{url: "{scheme}://127.0.0.1:@ORIGIN@"}}]', f"client: {way.client}", f"protocol: {protocol}"]
    if way.tls:
        lines.append(f"tls: {{caCertificateRefs: [{{file: {ca}}}], wellKnownCACertificates: None}}")
    return 'targets: [{url: "http://127.0.0.1:@ORIGIN@"}]', "\n    ".join(lines)


def _envoy(way: Way, ca: Path) -> str:
    text = ""
    if way.http2:
        text += (
            "      typed_extension_protocol_options:\n"
            "        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n"
            '          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n'
            "          explicit_http_config: {http2_protocol_options: {}}\n"
        )
    if way.tls:
        text += (
            "      transport_socket:\n"
            "        name: envoy.transport_sockets.tls\n"
            "        typed_config:\n"
            '          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n'
            "          sni: bench\n"
            "          common_tls_context:\n"
            f"            alpn_protocols: [{'h2' if way.http2 else 'http/1.1'}]\n"
            "            tls_params: {tls_maximum_protocol_version: TLSv1_3}\n"
            f"            validation_context: {{trusted_ca: {{filename: {ca}}}}}\n"
        )
    return text

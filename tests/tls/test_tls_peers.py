"""Real programs at the other end of TLS: nginx, HAProxy, Envoy and hypercorn as upstreams, curl and httpx as clients."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
from support import RawClient, Sidecar
from support.envoy import envoy_command, origin_command
from support.ports import free_port
from support.tls import CA, CLIENT, LOCAL, client, write

START = 60.0


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"needs {name} (apt-get install {name})")
    return found


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent)
        try:
            deadline = time.monotonic() + START
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                    break
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(START)


@contextlib.contextmanager
def nginx(folder: Path, versions: str, more: str = "") -> Iterator[int]:
    """Answers with the version of TLS that was spoken, whether the session was resumed, and ALPN's word; closes after three requests."""
    port = free_port()
    config = folder / "nginx.conf"
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{ access_log off; {paths} keepalive_requests 3;
  server {{ listen 127.0.0.1:{port} ssl {more}; ssl_certificate {folder}/local.crt; ssl_certificate_key {folder}/local.key;
    ssl_protocols {versions}; ssl_session_cache shared:s:1m;
    location / {{ return 200 "$ssl_protocol $ssl_session_reused $ssl_alpn_protocol"; }}
  }} }}
""")
    with running([program("nginx"), "-c", str(config), "-e", "stderr"], port, folder / "nginx.log"):
        yield port


@contextlib.contextmanager
def haproxy(folder: Path, more: str = "", says: str = "%[ssl_fc_protocol] %[ssl_c_used]") -> Iterator[int]:
    port = free_port()
    (folder / "pair.pem").write_bytes(LOCAL.pem + LOCAL.key_pem)
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread 1
defaults
  mode http
  timeout client 20s
  timeout connect 5s
  timeout server 20s
frontend f
  bind 127.0.0.1:{port} ssl crt {folder}/pair.pem {more}
  http-request return status 200 content-type text/plain lf-string "{says}"
""")
    with running([program("haproxy"), "-db", "-f", str(config)], port, folder / "haproxy.log"):
        yield port


@contextlib.contextmanager
def envoy(
    folder: Path, origin: int, least: str = "TLSv1_2", most: str = "TLSv1_3", alpn: tuple[str, ...] = ("h2", "http/1.1")
) -> Iterator[int]:
    """Says in `x-tls` and `x-protocol` what was spoken."""
    port = free_port()
    versions = {"tls_minimum_protocol_version": least, "tls_maximum_protocol_version": most}
    with running(envoy_command(folder, port, origin, tls=versions, alpn=alpn), port, folder / "envoy.log"):
        yield port


@contextlib.contextmanager
def envoy_and_origin(folder: Path, *args: str) -> Iterator[int]:
    origin = free_port()
    with running(origin_command(folder, origin), origin, folder / "origin.log"), envoy(folder, origin, *args) as port:
        yield port


APP = """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"HTTP/" + scope["http_version"].encode()})
"""


@contextlib.contextmanager
def hypercorn(folder: Path, *, tls: bool = True) -> Iterator[int]:
    """Says which version of HTTP was spoken; shouts on WebSockets."""
    if importlib.util.find_spec("hypercorn") is None:
        pytest.skip("needs hypercorn (pip install hypercorn)")
    (folder / "shouting.py").write_text(APP)
    port = free_port()
    pair = ["--certfile", f"{folder}/local.crt", "--keyfile", f"{folder}/local.key"] if tls else []
    command = [sys.executable, "-m", "hypercorn", "shouting:app", "-b", f"127.0.0.1:{port}", *pair]
    with running(command, port, folder / "hypercorn.log"):
        yield port


def over_http2(port: int, files: dict[str, str]) -> dict[str, Any]:
    made = document(port, **trust(files))
    made["upstreams"][0] |= {"client": "Httpx", "protocol": "HTTP2"}
    return made


def document(port: int, listener: Any = None, **tls: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "tls": listener}],
        "upstreams": [{"name": "app", "targets": [{"url": f"https://127.0.0.1:{port}"}], "tls": tls}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
    }


def ask(sidecar: Sidecar, count: int = 1) -> list[bytes]:
    async def main() -> list[bytes]:
        async with await RawClient.open(sidecar.port()) as one:
            return [(await one.request("/")).body for _ in range(count)]

    return asyncio.run(main())


def trust(files: dict[str, str]) -> dict[str, Any]:
    return {"caCertificateRefs": [{"file": files["ca.crt"]}], "wellKnownCACertificates": "None"}


@pytest.mark.parametrize(("versions", "spoken"), [("TLSv1.2", b"TLSv1.2"), ("TLSv1.3", b"TLSv1.3"), ("TLSv1.2 TLSv1.3", b"TLSv1.3")])
def test_nginx_is_spoken_to_in_its_version_and_its_sessions_are_resumed(tmp_path: Path, versions: str, spoken: bytes) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with nginx(tmp_path, versions) as port, Sidecar(document(port, **trust(files))) as sidecar:
        answers = ask(sidecar, 9)
        assert {answer.split()[0] for answer in answers} == {spoken}
        assert answers[0].split()[1:] == [b".", b"http/1.1"]
        assert answers[-1].split()[1] == b"r", "the third connection resumes what an earlier one was given"


def test_nginx_of_old_versions_alone_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with nginx(tmp_path, "TLSv1.2") as port, Sidecar(document(port, minVersion="1.3", **trust(files))) as sidecar:
        assert b"tls_alert_received" in ask(sidecar)[0]
        detail = sidecar.wait_for("access")["detail"]
        assert "protocol version" in detail


def test_haproxy_is_shown_a_certificate_and_says_by_an_alert_that_it_wants_one(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA, me=CLIENT)
    mine = {"clientCertificateRef": {"certFile": files["me.crt"], "keyFile": files["me.key"]}}
    with haproxy(tmp_path, f"verify required ca-file {files['ca.crt']}") as port:
        with Sidecar(document(port, **mine, **trust(files))) as sidecar:
            assert ask(sidecar, 2) == [b"TLSv1.3 1"] * 2
        with Sidecar(document(port, **trust(files))) as sidecar:
            assert b"tls_alert_received" in ask(sidecar)[0]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_envoy_is_spoken_to_in_its_version(tmp_path: Path, version: str) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)

    async def main(sidecar: Sidecar) -> None:
        async with await RawClient.open(sidecar.port()) as one:
            for number in range(20):  # it ends every connection after seven
                answer = await one.request(f"/{number}")
                assert answer.body == b"/%d" % number
                assert (answer.get("x-tls"), answer.get("x-protocol")) == (version.replace("_", "."), "HTTP/1.1")

    with envoy_and_origin(tmp_path, version, version) as port, Sidecar(document(port, **trust(files))) as sidecar:
        asyncio.run(main(sidecar))


def test_envoy_of_old_versions_alone_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with envoy(tmp_path, 9, "TLSv1_2", "TLSv1_2") as port, Sidecar(document(port, minVersion="1.3", **trust(files))) as sidecar:
        assert b"tls_alert_received" in ask(sidecar)[0]


@pytest.mark.parametrize("versions", ["TLSv1.2", "TLSv1.3"])
def test_nginx_is_spoken_to_in_http2_where_the_document_says_so(tmp_path: Path, versions: str) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with nginx(tmp_path, versions, "http2") as port, Sidecar(over_http2(port, files)) as sidecar:
        answers = [answer.split() for answer in ask(sidecar, 9)]  # it ends every connection after three
        assert {(version, alpn) for version, _, alpn in answers} == {(versions.encode(), b"h2")}
        assert answers[-1][1] == b"r", "the third connection resumes what an earlier one was given"


def test_haproxy_is_spoken_to_in_http2_where_the_document_says_so(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with haproxy(tmp_path, "alpn h2,http/1.1", "%[ssl_fc_alpn] %HV") as port, Sidecar(over_http2(port, files)) as sidecar:
        assert ask(sidecar, 9) == [b"h2 HTTP/2.0"] * 9


def test_envoy_is_spoken_to_in_http2_bodies_and_trailers_come_whole_and_its_goaway_loses_nothing(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    body = bytes(range(256)) * 4096

    async def one(sidecar: Sidecar, number: int) -> None:
        async with await RawClient.open(sidecar.port(), timeout=60) as client:
            for turn in range(10):  # together many more than the seven after which it says GOAWAY
                sent = body if turn == 3 else b"%d" % number
                answer = await client.request(f"/{number}", method="POST", body=sent)
                assert (answer.status, answer.get("x-protocol"), answer.get("x-tls")) == (200, "HTTP/2", "TLSv1.3")
                assert answer.body == sent
                assert answer.trailers == [(b"x-sum", b"%d" % len(sent))]

    async def main(sidecar: Sidecar) -> None:
        await asyncio.gather(*(one(sidecar, number) for number in range(4)))

    with envoy_and_origin(tmp_path) as port, Sidecar(over_http2(port, files)) as sidecar:
        asyncio.run(main(sidecar))


def test_a_server_that_does_not_agree_to_http2_is_an_error_that_says_so(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    with envoy(tmp_path, 9, "TLSv1_2", "TLSv1_3", ("http/1.1",)) as port, Sidecar(over_http2(port, files)) as sidecar:
        assert b"tls_protocol_error" in ask(sidecar)[0]
        assert "does not agree to HTTP/2" in sidecar.wait_for("access")["detail"]


@pytest.mark.parametrize("name", ["hypercorn", "envoy"])
def test_websockets_and_http2_go_to_one_upstream(tmp_path: Path, name: str) -> None:
    """Requests over HTTP/2; a WebSocket over HTTP/1.1, which the server agrees to by ALPN."""
    files = write(tmp_path, local=LOCAL, ca=CA)
    with contextlib.ExitStack() as running_ones:
        port = running_ones.enter_context(hypercorn(tmp_path, tls=name == "hypercorn"))
        if name == "envoy":
            port = running_ones.enter_context(envoy(tmp_path, port))
        sidecar = running_ones.enter_context(Sidecar(over_http2(port, files)))
        if name == "hypercorn":
            assert ask(sidecar, 2) == [b"HTTP/2"] * 2
        with websockets.sync.client.connect(f"ws://127.0.0.1:{sidecar.port()}/", proxy=None) as socket:
            for word in ("one", "two"):
                socket.send(word)
                assert socket.recv(20) == word.upper()
        assert sidecar.wait_for("access", status=101)["reason"] == "none"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_speaks_to_a_secured_listener_and_shows_its_certificate(tmp_path: Path, version: str) -> None:
    curl = program("curl")
    files = write(tmp_path, local=LOCAL, ca=CA, me=CLIENT)
    listener = {"certFile": files["local.crt"], "keyFile": files["local.key"], "clientCA": {"file": files["ca.crt"]}}
    with haproxy(tmp_path) as port, Sidecar(document(port, listener, **trust(files))) as sidecar:
        url = f"https://127.0.0.1:{sidecar.port()}/"
        common = [curl, "-sS", "--max-time", "20", "--cacert", files["ca.crt"], f"--tlsv{version}", "--tls-max", version]
        mine = ["--cert", files["me.crt"], "--key", files["me.key"]]
        said = subprocess.run([*common, *mine, url, url], capture_output=True, check=False)
        assert (said.returncode, said.stdout) == (0, b"TLSv1.3 0" * 2), said.stderr
        refused = subprocess.run([*common, url], capture_output=True, check=False)
        assert refused.returncode != 0
        sidecar.wait_for("handshake_failed", result="certificate_missing")
        assert sidecar.wait_for("access")["client_identity"] == "spiffe://cluster.local/ns/shop/sa/orders"


def test_httpx_speaks_to_a_secured_listener_over_kept_connections(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    listener = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
    with haproxy(tmp_path) as port, Sidecar(document(port, listener, **trust(files))) as sidecar:
        with httpx.Client(verify=client(), trust_env=False) as library:
            for _ in range(5):
                assert library.get(f"https://127.0.0.1:{sidecar.port()}/").text == "TLSv1.3 0"
        sidecar.wait_for("access", count=5, status=200)

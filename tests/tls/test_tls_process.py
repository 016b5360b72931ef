"""TLS of a real process: rotation under load, a document that is edited, WebSockets over every combination."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from support import Connection, RawClient, ScriptedUpstream, Sidecar, response
from support.certificates import issue
from support.tls import CA, CLIENT, LOCAL, client, server, write
from support.upstream import answer
from websockets.asyncio.server import ServerConnection, serve

LONG = 60.0


def document(upstream: str, *, listener: Any = None, tls: Any = None) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "tls": listener}],
        "upstreams": [{"name": "app", "targets": [{"url": upstream}], "tls": tls}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
    }


def replace(path: Path, data: bytes) -> None:
    """As careful tools write: a new file, renamed over the old one."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def callers(fake: ScriptedUpstream) -> set[str]:
    """Whose certificates an upstream has been shown."""
    return {connection.certificate()["subject"][0][0][1] for connection in fake.connections}


def test_certificates_are_rotated_under_load_without_one_failed_request(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA, me=CLIENT)
    tls = {
        "caCertificateRefs": [{"file": files["ca.crt"]}],
        "wellKnownCACertificates": "None",
        "clientCertificateRef": {"certFile": files["me.crt"], "keyFile": files["me.key"]},
    }
    listener = {"certFile": files["local.crt"], "keyFile": files["local.key"], "clientCA": {"file": files["ca.crt"]}}
    shown: set[str] = set()
    ended = asyncio.Event()

    async def load(port: int, *, keep: bool) -> int:
        served = 0
        while not ended.is_set():
            async with await RawClient.open(port, ssl=client(pair=CLIENT)) as one:
                shown.add(one.certificate()["subject"][0][0][1])
                for _ in range(200 if keep else 1):
                    assert (await one.request("/")).status == 200
                    served += 1
                    if ended.is_set():
                        break
        return served

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x")), ssl=server(clients=CA)) as fake:
            async with Sidecar(document(fake.url, listener=listener, tls=tls)) as sidecar:
                tasks = [asyncio.ensure_future(load(sidecar.port(), keep=keep)) for keep in (True, True, False)]
                for number in range(1, 4):
                    for kind, name, is_client in (("local", f"local{number}", False), ("me", f"me{number}", True)):
                        new = issue(CA, name, hosts=[] if is_client else ["127.0.0.1"], client=is_client)
                        replace(tmp_path / f"{kind}.key", new.key_pem)
                        replace(tmp_path / f"{kind}.crt", new.pem)
                    async with asyncio.timeout(LONG):
                        while f"local{number}" not in shown or f"me{number}" not in callers(fake):
                            await asyncio.sleep(0.02)
                ended.set()
                assert min(await asyncio.gather(*tasks)) > 0
                assert sidecar.events("access", status=200)
                assert not [line for line in sidecar.log if line.get("event") == "access" and line["status"] != 200]

    asyncio.run(main())


def test_a_document_that_names_a_missing_file_changes_nothing_and_says_where(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x"))) as fake:
            good = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
            async with Sidecar(document(fake.url, listener=good)) as sidecar:
                sidecar.edit(document(fake.url, listener={**good, "keyFile": str(tmp_path / "nowhere.key")}))
                line = await sidecar.await_for("config_rejected")
                assert "listeners[0].tls: " in line["problems"][0]
                assert "nowhere.key cannot be opened: No such file" in line["problems"][0]
                async with await RawClient.open(sidecar.port(), ssl=client()) as one:
                    assert (await one.request("/")).body == b"x"

    asyncio.run(main())


def test_no_key_shows_in_the_log_or_on_the_admin_surface(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x"))) as fake:
            made = document(fake.url, listener={"certFile": files["local.crt"], "keyFile": files["local.key"]})
            made["upstreams"][0]["proxyURL"] = None
            made["upstreams"].append(
                {"name": "far", "targets": [{"url": "http://far.test"}], "proxyURL": "http://user:s3cr3t@proxy.test:3128"}
            )
            async with Sidecar(made) as sidecar, aiohttp.ClientSession(f"http://127.0.0.1:{sidecar.admin_port}") as session:
                pages = ""
                for path in ("/config", "/listeners", "/upstreams", "/recent", "/"):
                    async with session.get(path) as reply:
                        pages += await reply.text()
                listed = json.loads(await (await session.get("/listeners")).text())
                assert (listed[0]["protocol"], listed[0]["tls"], listed[0]["problem"]) == ("HTTP1", "TLS", "")
                secret = LOCAL.key_pem.decode().split("\n")[1]
                for text in (pages, "\n".join(sidecar.lines)):
                    assert secret not in text
                    assert "s3cr3t" not in text
                    assert "PRIVATE KEY" not in text

    asyncio.run(main())


# WebSockets


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in connection:
            await connection.send(message)


@contextlib.asynccontextmanager
async def echoing(secured: bool) -> AsyncIterator[str]:
    made = server() if secured else None
    async with serve(echo, "127.0.0.1", 0, ssl=made, subprotocols=["chat", "news"], max_size=None) as running:  # type: ignore[list-item]
        port = running.sockets[0].getsockname()[1]
        yield f"{'https' if secured else 'http'}://127.0.0.1:{port}"


MESSAGES = ["", "text \N{SNOWMAN}", b"", bytes(range(256)), "x" * 125, "x" * 126, b"y" * 65535, b"z" * 65536, os.urandom(1_000_000)]


@pytest.mark.parametrize("down", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("up", [False, True], ids=["to ws", "to wss"])
def test_websockets_pass_with_messages_subprotocol_compression_and_close_code(tmp_path: Path, down: bool, up: bool) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    listener = {"certFile": files["local.crt"], "keyFile": files["local.key"]} if down else None
    tls = {"caCertificateRefs": [{"file": files["ca.crt"]}], "wellKnownCACertificates": "None"} if up else None
    made: ssl.SSLContext | None = client() if down else None

    async def main() -> None:
        async with asyncio.timeout(LONG), echoing(up) as upstream, Sidecar(document(upstream, listener=listener, tls=tls)) as sidecar:
            url = f"{'wss' if down else 'ws'}://127.0.0.1:{sidecar.port()}/chat"
            async with websockets.connect(url, ssl=made, subprotocols=["news"], compression="deflate", max_size=None) as one:  # type: ignore[list-item]
                assert one.subprotocol == "news"
                assert [type(extension).__name__ for extension in one.protocol.extensions] == ["PerMessageDeflate"]
                for message in MESSAGES:
                    await one.send(message)
                    assert await one.recv() == message
                await (await one.ping())
                await one.close(4001, "enough")
                assert (one.close_code, one.close_reason) == (4001, "enough")
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(url, ssl=made if made is not None else True, protocols=["chat"], compress=15) as two:
                    assert two.protocol == "chat"
                    await two.send_str("hello")
                    assert (await two.receive()).data == "hello"
                    await two.close()
            ended = await sidecar.await_for("access", count=2, tunnel="websocket")
            assert ended["status"] == 101

    asyncio.run(main())


def test_a_name_that_is_not_ascii_costs_a_handshake_and_no_traceback(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, other=issue(CA, "other", hosts=["other.test"]))
    listener = {"certificates": [{"certFile": files[f"{name}.crt"], "keyFile": files[f"{name}.key"]} for name in ("local", "other")]}

    def hello(name: bytes) -> bytes:
        """A ClientHello whose SNI is `name`, whatever that is."""
        outgoing = ssl.MemoryBIO()
        stand_in = "x" * len(name)
        with pytest.raises(ssl.SSLWantReadError):
            client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=stand_in).do_handshake()
        return outgoing.read().replace(stand_in.encode(), name)

    async def main(sidecar: Sidecar) -> None:
        for name in (b"\xff\xfe", "\u00e4.test".encode(), b"xn--\x80", b"a\0.test", b"a\r\nX: y", b".", b"*.wild.test"):
            async with await RawClient.open(sidecar.port()) as odd:
                await odd.send(hello(name))
                answer = await odd.read_exactly(7)
                assert answer[0] == (0x16 if name.isascii() and b"\0" not in name else 0x15), "a ServerHello, or an alert"
        async with await RawClient.open(sidecar.port(), ssl=client(), name="other.test") as one:
            assert one.certificate()["subject"] == ((("commonName", "other"),),)

    with Sidecar(document("http://127.0.0.1:1", listener=listener)) as sidecar:
        asyncio.run(main(sidecar))
        assert not [line for line in sidecar.lines if not line.startswith("{")], "a line that is none of our log"


SURFACES = ["/", "/config", "/config/problems", "/upstreams", "/connections", "/recent", "/why", "/explain?url=http://a/", "/metrics"]


def test_the_password_of_a_proxy_and_what_a_proxy_says_of_it_are_nowhere_to_be_read() -> None:
    secrets = [b"s3cr3t", base64.b64encode(b"me:s3cr3t").rstrip(b"="), b"hunter2", b"a-realm"]
    refusal = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="a-realm"\r\nX: hunter2\r\nContent-Length: 7\r\n\r\nhunter2'

    async def refuses(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(refusal, piece=1)

    async def main() -> list[bytes]:
        async with ScriptedUpstream(refuses) as proxy:
            made = document("https://orders.invalid", tls={"wellKnownCACertificates": "System"})
            made["upstreams"][0]["proxyURL"] = proxy.url.replace("http://", "http://me:s3cr3t@")
            async with Sidecar(made, flags=["--log-level=debug"]) as sidecar:
                async with await RawClient.open(sidecar.port()) as one:
                    assert (await one.request()).status == 500
                    heard = [bytes(one.received)]
                made["upstreams"][0] |= {"targets": [{"url": "http://orders.invalid"}], "tls": None}
                await sidecar.aapply(made)
                async with await RawClient.open(sidecar.port()) as one:
                    assert (await one.request()).status == 500
                    heard.append(bytes(one.received))
                made["upstreams"][0]["proxyURL"] += "/?x"
                await asyncio.to_thread(sidecar.refuse, made)
                for path in SURFACES:
                    async with await RawClient.open(sidecar.admin_port) as admin:
                        assert (await admin.request(path, host="localhost")).status == 200
                        heard.append(bytes(admin.received))
                return [*heard, *(line.encode() for line in sidecar.lines)]

    heard = asyncio.run(main())
    assert any(b"proxy_configuration_error" in words for words in heard)
    assert [words for words in heard if any(secret in words for secret in secrets)] == []

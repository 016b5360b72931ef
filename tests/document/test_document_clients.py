"""`client` and `protocol`: who speaks to an upstream, and what."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from contract.contract_peers import Http2Peer, Served
from document_kit import Chain, Document, document, live, problems_of, proves, says
from support import Connection, ScriptedUpstream
from support.tls import CA, server

from sidecar.config.load import load
from sidecar.model.snapshot import Client, Upstream
from sidecar.upstream import transports
from sidecar.upstream.transports import ClientRefused, load_clients


def transport_of(chain: Chain) -> str:
    return type(chain.registry.get("app").transport).__name__


@proves(
    "upstreams[].client=Native",
    "upstreams[].client=Aiohttp",
    "upstreams[].client=Httpx",
    "upstreams[].protocol=HTTP1",
)
@pytest.mark.parametrize("client", ["Native", "Aiohttp", "Httpx"])
@live
async def test_the_client_that_is_named_speaks_to_the_upstream(client: str) -> None:
    async with ScriptedUpstream(says("well")) as fake, Chain(document(fake.port, up={"client": client, "protocol": "HTTP1"})) as chain:
        assert (await chain.ask()).body == b"well"
        assert transport_of(chain) == f"{client}Transport"
        assert fake.requests[0].start.endswith(b" HTTP/1.1")


async def _served(served: Served) -> None:
    await served.answer(200, (), b"%s %s" % (served.method, served.target))


@proves("upstreams[].protocol=H2C")
@live
async def test_h2c_is_http2_in_the_clear() -> None:
    async with Http2Peer(_served) as peer, Chain(document(peer.port, up={"client": "Httpx", "protocol": "H2C"})) as chain:
        for _ in range(2):
            assert (await chain.ask("/a?b")).body == b"GET /a?b"
        assert peer.connections == 1


@proves("upstreams[].protocol=HTTP2")
@live
async def test_http2_is_http2_over_tls(tmp_path: Path) -> None:
    context = server()
    context.set_alpn_protocols(["h2"])
    (tmp_path / "ca.crt").write_bytes(CA.pem)
    tls = {"caCertificateRefs": [{"file": str(tmp_path / "ca.crt")}], "wellKnownCACertificates": "None"}
    async with Http2Peer(_served, ssl=context) as peer:
        async with Chain(document(peer.url, up={"client": "Httpx", "protocol": "HTTP2", "tls": tls})) as chain:
            assert (await chain.ask("/a?b")).body == b"GET /a?b"


@live
async def test_a_server_that_does_not_agree_to_http2_is_a_tls_error(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(CA.pem)
    tls = {"caCertificateRefs": [{"file": str(tmp_path / "ca.crt")}], "wellKnownCACertificates": "None"}
    async with ScriptedUpstream(says("no"), ssl=server()) as fake:
        async with Chain(document(fake.url, up={"client": "Httpx", "protocol": "HTTP2", "tls": tls})) as chain:
            assert "tls_protocol_error" in ((await chain.ask()).get("proxy-status") or "")


@pytest.mark.parametrize(
    ("up", "said"),
    [
        ({"protocol": "H2C"}, "upstreams[0].protocol: H2C is spoken by the client Httpx only"),
        ({"client": "Aiohttp", "protocol": "HTTP2"}, "upstreams[0].protocol: HTTP2 is spoken by the client Httpx only"),
        ({"client": "Httpx", "protocol": "HTTP2"}, "upstreams[0].targets[0].url: HTTP2 is HTTP/2 over TLS"),
    ],
)
def test_what_does_not_go_together_is_refused(up: Document, said: str) -> None:
    found = problems_of(document(8000, up=up))
    assert any(said in problem for problem in found), found


@live
async def test_a_reload_that_changes_the_client_lets_exchanges_end_on_the_old_one() -> None:
    async with ScriptedUpstream(says("well")) as fake, Chain(document(fake.port)) as chain:
        assert (await chain.ask()).body == b"well"
        for client in ("Aiohttp", "Httpx", "Native"):
            snapshot = _snapshot(document(fake.port, up={"client": client}))
            await chain.registry.reconcile(snapshot)
            assert transport_of(chain) == f"{client}Transport"
            assert (await chain.ask()).body == b"well"
        assert chain.registry.statuses()[0].connections_idle == 1


def _snapshot(doc: Document) -> Any:
    import json

    loaded = load(json.dumps(doc).encode())
    return loaded.snapshot  # type: ignore[union-attr]  # the document is good


@pytest.mark.parametrize("client", [Client.AIOHTTP, Client.HTTPX])
@live
async def test_a_client_whose_library_is_not_installed_is_refused_with_what_to_install(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module,) = {name for (who, _), name in transports._MODULES.items() if who is client and name.endswith("_client")}
    library = client.value.lower()
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ClientRefused) as caught:
        await load_clients([Upstream(name="one"), Upstream(name="two", client=client)])
    assert caught.value.path == "upstreams[1].client"
    assert f"{library}" in str(caught.value)
    assert "(pip install 'outrider" in str(caught.value)


def test_a_route_that_times_upgrades_to_an_upstream_that_has_none_is_warned_about() -> None:
    up = {"client": "Httpx", "protocol": "H2C"}
    warnings = _snapshot(document(8000, up=up, route={"timeouts": {"tunnelIdle": "1m"}})).warnings
    assert [warning for warning in warnings if warning.startswith("routes[0].timeouts.tunnelIdle: app speaks H2C")]
    assert not _snapshot(document(8000, up=up)).warnings
    assert not _snapshot(document(8000, route={"timeouts": {"tunnelIdle": "1m"}})).warnings


@pytest.mark.parametrize("client", ["Native", "Aiohttp", "Httpx"])
@live
async def test_every_client_goes_through_the_proxy_that_is_named(client: str) -> None:
    async with ScriptedUpstream(says("by proxy")) as proxy:
        up = {"client": client, "proxyURL": proxy.url.replace("http://", "http://me:secret@")}
        async with Chain(document("http://orders.test:81", up=up)) as chain:
            assert (await chain.ask("/a?b")).body == b"by proxy"
            asked = proxy.requests[0]
            assert asked.start == b"GET http://orders.test:81/a?b HTTP/1.1"
            assert asked.get("proxy-authorization") == "Basic bWU6c2VjcmV0"


@live
async def test_http2_goes_through_a_tunnel_of_the_proxy_that_is_named() -> None:
    async with Http2Peer(_served) as peer:

        async def tunnel(connection: Connection) -> None:
            asked = await connection.read_head()
            assert asked.start == b"CONNECT orders.test:81 HTTP/1.1"
            reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")

            async def back() -> None:
                while data := await reader.read(65536):
                    await connection.send(data)

            returning = asyncio.ensure_future(back())
            try:
                while data := await connection.read_some():
                    writer.write(data)
            finally:
                returning.cancel()
                writer.close()
                await asyncio.gather(returning, return_exceptions=True)

        async with ScriptedUpstream(tunnel) as proxy:
            up = {"client": "Httpx", "protocol": "H2C", "proxyURL": proxy.url}
            async with Chain(document("http://orders.test:81", up=up)) as chain:
                for _ in range(2):
                    assert (await chain.ask("/a?b")).body == b"GET /a?b"

"""The TLS of both sides in spans, by the names and forms of OpenTelemetry's registry (`tls.*`, in development)."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from contract.contract_peers import Http2Peer, Served
from support import RawClient, ScriptedUpstream, Sidecar, answer, response
from support.otlp import Collector, Span
from support.tls import CA, LOCAL, client, server, write

from sidecar.model.tls import Secured
from sidecar.observe.tracing.tls_attributes import registered, tls_attributes
from sidecar.tls.contexts import HTTP1, client_context
from sidecar.tls.material import CaBundle

REGISTRY = {
    "tls.cipher": str,
    "tls.next_protocol": str,
    "tls.protocol.name": str,
    "tls.protocol.version": str,
    "tls.resumed": bool,
}
"""Those of the registry that we say, and their types."""
TLS13 = {"tls.protocol.name": "tls", "tls.protocol.version": "1.3", "tls.cipher": "TLS_AES_256_GCM_SHA384"}


def of_tls(span: Span) -> dict[str, Any]:
    found = {name: value for name, value in span.attributes.items() if name.startswith("tls.")}
    assert {name: type(value) for name, value in found.items()} == {name: REGISTRY[name] for name in found}
    return found


def document(
    upstream: str, collector: Collector, files: dict[str, str], *, listener: bool, ratio: float = 1.0, **up: Any
) -> dict[str, Any]:
    tls = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
    if upstream.startswith("https"):
        up["tls"] = {"caCertificateRefs": [{"file": files["ca.crt"]}], "wellKnownCACertificates": "None"}
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "tls": tls if listener else None}],
        "upstreams": [{"name": "app", "targets": [{"url": upstream}], **up}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
        "telemetry": {"tracing": {"exporter": "OTLP", "endpoint": collector.url, "sampler": "TraceIdRatio", "ratio": ratio}},
    }


async def spans_of(sidecar: Sidecar, collector: Collector, requests: int, tls: ssl.SSLContext | None) -> tuple[list[Span], list[Span]]:
    """SERVER and CLIENT spans of so many requests on one connection."""
    async with await RawClient.open(sidecar.port(), ssl=tls) as one:
        for _ in range(requests):
            assert (await one.request("/")).status == 200
    spans = await collector.wait(2 * requests)
    kinds = {kind: [span for span in spans if span.kind == kind] for kind in ("server", "client")}
    return kinds["server"], kinds["client"]


def test_both_spans_say_what_was_agreed_on_each_for_its_own_side(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)

    async def main() -> None:
        offered = client()
        offered.set_alpn_protocols(["http/1.1"])
        old = server(maximum_version=ssl.TLSVersion.TLSv1_2)
        async with Collector() as collector, ScriptedUpstream(answer(response(body=b"x")), ssl=old) as fake:
            made = document(fake.url, collector, files, listener=True, connectionPool={"maxRequestsPerConnection": 1})
            async with Sidecar(made, env={"OTEL_BSP_SCHEDULE_DELAY": "10"}) as sidecar:
                exchanges, attempts = await spans_of(sidecar, collector, 2, offered)
        for span in exchanges:
            assert of_tls(span) == {**TLS13, "tls.resumed": False, "tls.next_protocol": "http/1.1"}
            assert (span.attributes["url.scheme"], span.attributes["network.protocol.version"]) == ("https", "1.1")
        assert [of_tls(span)["tls.resumed"] for span in attempts] == [False, True], "each connection had one request"
        for span in attempts:
            found = of_tls(span)
            assert (found["tls.protocol.version"], found["tls.cipher"]) == ("1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")
            assert "tls.next_protocol" not in found, "the server knows no ALPN"
            assert str(span.attributes["url.full"]).startswith("https://127.0.0.1:")

    asyncio.run(main())


def test_in_the_clear_there_is_nothing_to_say(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)

    async def main() -> None:
        async with Collector() as collector, ScriptedUpstream(answer(response(body=b"x"))) as fake:
            async with Sidecar(document(fake.url, collector, files, listener=False), env={"OTEL_BSP_SCHEDULE_DELAY": "10"}) as sidecar:
                exchanges, attempts = await spans_of(sidecar, collector, 1, None)
        assert [of_tls(span) for span in (*exchanges, *attempts)] == [{}, {}]
        assert exchanges[0].attributes["url.scheme"] == "http"
        assert str(attempts[0].attributes["url.full"]).startswith("http://")

    asyncio.run(main())


@pytest.mark.parametrize("tls", [True, False])
def test_an_attempt_over_http2_says_so(tmp_path: Path, tls: bool) -> None:
    """`network.protocol.version` is `2` then (RFC 9113), and ALPN's word is `h2`."""
    files = write(tmp_path, local=LOCAL, ca=CA)

    async def main() -> None:
        context = server()
        context.set_alpn_protocols(["h2"])

        async def script(served: Served) -> None:
            await served.answer(200, (), b"x")

        async with Collector() as collector, Http2Peer(script, ssl=context if tls else None) as fake:
            made = document(fake.url, collector, files, listener=False, client="Httpx", protocol="HTTP2" if tls else "H2C")
            async with Sidecar(made, env={"OTEL_BSP_SCHEDULE_DELAY": "10"}) as sidecar:
                exchanges, attempts = await spans_of(sidecar, collector, 1, None)
        assert exchanges[0].attributes["network.protocol.version"] == "1.1"
        assert attempts[0].attributes["network.protocol.version"] == "2"
        assert of_tls(attempts[0]) == ({**TLS13, "tls.resumed": False, "tls.next_protocol": "h2"} if tls else {})

    asyncio.run(main())


def test_every_suite_that_we_offer_has_the_name_that_the_registry_gives_it() -> None:
    """OpenSSL itself knows both."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (apt-get install openssl)")
    said = subprocess.run(["openssl", "ciphers", "-stdname", "ALL:@SECLEVEL=0"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[2]: line.split()[0] for line in said.splitlines()}
    from sidecar.model.tls import UpstreamTls

    offered = [str(one["name"]) for one in client_context(UpstreamTls(), HTTP1, [CaBundle(CA.pem)], None).get_ciphers()]
    assert len(offered) > 10
    assert {name: registered(name) for name in offered} == {name: names[name] for name in offered}


def test_a_suite_that_we_do_not_know_is_left_out_and_not_guessed() -> None:
    found = tls_attributes(Secured("TLSv1.2", "SOMETHING-NEW", False, ""))
    assert found == {"tls.protocol.name": "tls", "tls.protocol.version": "1.2", "tls.resumed": False}

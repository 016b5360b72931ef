"""`tls` of listeners and upstreams, and `proxyURL`: every field has its effect."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from document_kit import Chain, Document, document, echo_head, field_of, line_of, live, proves, reason_of, says, under
from support import Connection, ScriptedUpstream, response
from support.certificates import Pair, general_names, issue
from support.tls import CA, CLIENT, LOCAL, OTHER_CA, careless, client, server, write

from sidecar.model.tls import CaRef, CertificateRef, Handshake, ObjectKind
from sidecar.tls.material import CaBundle, KeyPair
from sidecar.tls.store import Reference


class Objects:
    """Secrets and ConfigMaps: what a reference stands for; others do not exist."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.asked: list[Reference] = []

    def __call__(self, reference: Reference, changed: Callable[[], None]) -> Objects.One:
        self.asked.append(reference)
        return Objects.One(reference, self.values.get(reference.name or ""))

    class One:
        def __init__(self, reference: Reference, value: Any) -> None:
            self.value = value
            self.problem = "" if value is not None else f"Secret {reference.name}: it does not exist"

        async def settled(self) -> None: ...

        def close(self) -> None: ...


def pair(of: Any = LOCAL) -> KeyPair:
    return KeyPair(of.pem, of.key_pem)


def reach(fake: ScriptedUpstream, **tls: Any) -> Document:
    """A document whose upstream is `fake`, with this `tls`."""
    return document(fake.url, up={"tls": tls})


def trusting(folder: Path, ca: Any = CA) -> Document:
    """`tls` fields of an upstream whose CA is `ca`, and nobody else."""
    file = folder / "ca.crt"
    file.write_bytes(ca.pem)
    return {"caCertificateRefs": [{"file": str(file)}], "wellKnownCACertificates": "None"}


# Towards upstreams


@proves(
    *under("upstreams[].tls", "caCertificateRefs[].file", "wellKnownCACertificates=None", "verification=Full"), "upstreams[].targets[].url"
)
@live
async def test_an_https_target_is_reached_when_its_ca_is_known(tmp_path: Path) -> None:
    async with ScriptedUpstream(says("secure"), ssl=server()) as fake, Chain(reach(fake, **trusting(tmp_path))) as chain:
        assert (await chain.ask()).body == b"secure"


@live
async def test_a_certificate_of_an_unknown_ca_is_refused_and_its_why_stays_ours(tmp_path: Path) -> None:
    async with ScriptedUpstream(says("x"), ssl=server()) as fake, Chain(reach(fake, **trusting(tmp_path, OTHER_CA))) as chain:
        reply = await chain.ask()
        assert reason_of(reply) == "502 tls_certificate_error"
        assert b"unable" not in reply.body + str(reply.fields).encode()
        assert "unable to get local issuer certificate" in (await chain.seen.last()).detail
        assert len(chain.seen.attempts) == 1, "the same certificate would be refused again"


@proves("upstreams[].tls.verification=None")
@live
async def test_verification_none_takes_any_certificate_and_is_warned_about() -> None:
    async with ScriptedUpstream(says("any"), ssl=server()) as fake, Chain(reach(fake, verification="None")) as chain:
        assert (await chain.ask()).body == b"any"
        assert "may be anybody" in chain.snapshot.warnings[0]


@proves("upstreams[].tls.wellKnownCACertificates=System")
@live
async def test_the_systems_cas_are_believed_unless_the_document_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "system.crt"
    file.write_bytes(CA.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with ScriptedUpstream(says("system"), ssl=server()) as fake:
        async with Chain(document(fake.url)) as chain:
            assert (await chain.ask()).body == b"system"
        async with Chain(reach(fake, **trusting(tmp_path, OTHER_CA))) as chain:
            assert reason_of(await chain.ask()) == "502 tls_certificate_error"


@proves("upstreams[].tls.hostname")
@live
async def test_hostname_is_the_sni_and_the_name_that_is_verified(tmp_path: Path) -> None:
    names: list[str | None] = []
    other = issue(CA, "b", hosts=["b.test"])
    asked = server(other, sni_callback=lambda _connection, name, _context: names.append(name))
    async with ScriptedUpstream(says("b"), ssl=asked) as fake:
        async with Chain(reach(fake, hostname="b.test", **trusting(tmp_path))) as chain:
            assert (await chain.ask()).body == b"b"
        async with Chain(reach(fake, hostname="c.test", **trusting(tmp_path))) as chain:
            assert reason_of(await chain.ask()) == "502 tls_certificate_error"
        async with Chain(reach(fake, **trusting(tmp_path))) as chain:
            assert reason_of(await chain.ask()) == "502 tls_certificate_error"
            assert "IP address mismatch" in (await chain.seen.last()).detail
    assert names == ["b.test", "c.test", None], "an IP literal is no name for SNI"


@proves(*under("upstreams[].tls.subjectAltNames[]", "type=Hostname", "type=URI", "hostname", "uri"))
@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ([{"type": "Hostname", "hostname": "x.wild.test"}], "fine"),
        ([{"type": "Hostname", "hostname": "no.test"}, {"type": "URI", "uri": "spiffe://here/app"}], "fine"),
        ([{"type": "Hostname", "hostname": "x.y.wild.test"}], "502 tls_certificate_error"),
        ([{"type": "URI", "uri": "spiffe://here/other"}], "502 tls_certificate_error"),
    ],
)
def test_one_of_the_subject_alt_names_must_be_there_and_the_hostname_need_not(tmp_path: Path, wanted: list[Document], answer: str) -> None:
    @live
    async def main() -> None:
        named = issue(CA, "app", hosts=["*.wild.test"], uris=["spiffe://here/app"])
        async with ScriptedUpstream(says("fine"), ssl=server(named)) as fake:
            async with Chain(reach(fake, hostname="other.test", subjectAltNames=wanted, **trusting(tmp_path))) as chain:
                assert reason_of(await chain.ask()) == answer

    main()


@proves("upstreams[].tls.minVersion=1.2", "upstreams[].tls.minVersion=1.3")
@live
async def test_the_lowest_version_is_1_2_or_1_3(tmp_path: Path) -> None:
    old = server(maximum_version=ssl.TLSVersion.TLSv1_2)
    async with ScriptedUpstream(says("old"), ssl=old) as fake:
        async with Chain(reach(fake, minVersion="1.2", **trusting(tmp_path))) as chain:
            assert (await chain.ask()).body == b"old"
        async with Chain(reach(fake, minVersion="1.3", **trusting(tmp_path))) as chain:
            assert reason_of(await chain.ask()) in ("502 tls_alert_received", "502 connection_terminated")  # asyncio's server says no alert


@proves(*under("upstreams[].tls.clientCertificateRef", "certFile", "keyFile"))
@live
async def test_a_client_certificate_is_shown_from_two_files(tmp_path: Path) -> None:
    files = write(tmp_path, orders=CLIENT)
    shown = {"clientCertificateRef": {"certFile": files["orders.crt"], "keyFile": files["orders.key"]}}
    async with ScriptedUpstream(says("known"), ssl=server(clients=CA)) as fake:
        async with Chain(reach(fake, **shown, **trusting(tmp_path))) as chain:
            assert (await chain.ask()).body == b"known"
        async with Chain(reach(fake, **trusting(tmp_path))) as chain:
            assert reason_of(await chain.ask()) in ("502 tls_alert_received", "502 connection_terminated")  # as above


@proves(
    *under("upstreams[].tls.clientCertificateRef", "name", "namespace"),
    *under("upstreams[].tls.caCertificateRefs[]", "kind=Secret", "kind=ConfigMap", "name", "namespace", "key"),
)
@live
async def test_what_a_secret_or_a_configmap_holds_is_used_and_its_absence_is_told() -> None:
    objects = Objects(mine=pair(CLIENT), ca=CaBundle(CA.pem), more=CaBundle(OTHER_CA.pem))
    ca = [{"kind": "Secret", "name": "ca", "key": "root.pem"}, {"kind": "ConfigMap", "name": "more", "namespace": "trust"}]
    tls = {"caCertificateRefs": ca, "wellKnownCACertificates": "None", "clientCertificateRef": {"name": "mine", "namespace": "shop"}}
    async with ScriptedUpstream(says("known"), ssl=server(clients=CA)) as fake:
        async with Chain(reach(fake, **tls), follow_object=objects) as chain:
            assert (await chain.ask()).body == b"known"
        async with Chain(reach(fake, **tls), follow_object=Objects()) as chain:
            assert reason_of(await chain.ask()) == "503 destination_unavailable"
            assert "Secret mine: it does not exist" in (await chain.seen.last()).detail
            assert "Secret mine: it does not exist" in chain.registry.statuses()[0].problem
    assert objects.asked == [
        CaRef(kind=ObjectKind.SECRET, name="ca", key="root.pem"),
        CaRef(kind=ObjectKind.CONFIG_MAP, name="more", namespace="trust"),
        CertificateRef(name="mine", namespace="shop"),
    ]


# Towards clients


def listening(**tls: Any) -> Document:
    return {"tls": tls}


@proves(*under("listeners[].tls", "certFile", "keyFile"))
@live
async def test_a_listener_with_a_certificate_speaks_tls_and_the_upstream_hears_https(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)
    tls = listening(certFile=files["local.crt"], keyFile=files["local.key"])
    async with ScriptedUpstream(echo_head) as fake, Chain(document(fake.port, listener=tls)) as chain:
        echoed = await chain.ask(secured={"ssl": client()})
        assert field_of(echoed, "x-forwarded-proto") == ["https"]
        assert field_of(echoed, "x-forwarded-client-cert") == []


@proves(*under("listeners[].tls.certificates[]", "certFile", "keyFile", "name", "namespace"))
@live
async def test_the_certificate_is_chosen_by_sni_and_the_first_one_is_for_everybody_else(tmp_path: Path) -> None:
    files = write(tmp_path, first=issue(CA, "first", hosts=["one.test"]), second=issue(CA, "second", hosts=["*.two.test"]))
    listed = [{"certFile": files[f"{name}.crt"], "keyFile": files[f"{name}.key"]} for name in ("first", "second")]
    listed.append({"name": "third", "namespace": "shop"})
    objects = Objects(third=pair(issue(CA, "third", hosts=["exact.two.test"])))
    async with ScriptedUpstream(says("x")) as fake:
        async with Chain(document(fake.port, listener=listening(certificates=listed)), follow_object=objects) as chain:
            for sni, name in {"one.test": "first", "a.two.test": "second", "exact.two.test": "third", "else.test": "first"}.items():
                async with await chain.client(ssl=client(check_hostname=False), name=sni) as one:
                    assert one.certificate()["subject"] == ((("commonName", name),),), sni
                    assert (await one.request()).status == 200


@proves(*under("listeners[].tls.certificateRef", "certFile", "keyFile", "name", "namespace"))
@live
async def test_certificate_ref_is_short_for_one_certificate_and_a_secret_may_come_later(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)
    in_files = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
    in_secret = {"name": "orders-tls", "namespace": "shop"}
    there = Objects(**{"orders-tls": pair()})
    async with ScriptedUpstream(says("x")) as fake:
        for reference, objects in ((in_files, Objects()), (in_secret, there)):
            async with Chain(document(fake.port, listener=listening(certificateRef=reference)), follow_object=objects) as chain:
                assert (await chain.ask(secured={"ssl": client()})).body == b"x"
        async with Chain(document(fake.port, listener=listening(certificateRef=in_secret)), follow_object=Objects()) as chain:
            with pytest.raises(ssl.SSLError, match="handshake failure"):
                await chain.client(ssl=client())
            assert chain.listeners()[0]["problem"] == "Secret orders-tls: it does not exist"
            await chain.shaken(Handshake.NOT_CONFIGURED)


@proves("listeners[].tls.clientCA.file", "listeners[].tls.clientAuth=Required")
@live
async def test_a_client_without_a_good_certificate_is_refused_where_one_is_required(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL, ca=CA)
    tls = listening(certFile=files["local.crt"], keyFile=files["local.key"], clientCA={"file": files["ca.crt"]})
    async with ScriptedUpstream(echo_head) as fake, Chain(document(fake.port, listener=tls)) as chain:
        echoed = await chain.ask(secured={"ssl": client(pair=CLIENT)})
        element = field_of(echoed, "x-forwarded-client-cert")[0]
        assert 'Subject="O=shop,CN=orders";URI=spiffe://cluster.local/ns/shop/sa/orders;DNS=orders.shop' in element
        assert (await chain.seen.last()).identity == "spiffe://cluster.local/ns/shop/sa/orders"
        stranger = issue(OTHER_CA, "stranger", client=True)
        for shown, result in ((None, Handshake.CERTIFICATE_MISSING), (stranger, Handshake.CERTIFICATE_REFUSED)):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await chain.ask(secured={"ssl": client(pair=shown)})
            await chain.shaken(result)


@proves(
    *under("listeners[].tls.clientCA", "kind=Secret", "kind=ConfigMap", "name", "namespace", "key"), "listeners[].tls.clientAuth=Optional"
)
@live
async def test_an_optional_certificate_is_verified_when_it_is_shown_and_cannot_be_claimed_in_a_field(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)
    for kind in ("Secret", "ConfigMap"):
        ca = {"kind": kind, "name": "clients", "namespace": "trust", "key": "ca.pem"}
        tls = listening(certFile=files["local.crt"], keyFile=files["local.key"], clientCA=ca, clientAuth="Optional")
        objects = Objects(clients=CaBundle(CA.pem))
        async with ScriptedUpstream(echo_head) as fake, Chain(document(fake.port, listener=tls), follow_object=objects) as chain:
            claim = 'X-Forwarded-Client-Cert: Hash=00;Subject="CN=admin"\r\n'
            assert field_of(await chain.ask(secured={"ssl": client()}, headers=claim), "x-forwarded-client-cert") == []
            mine = field_of(await chain.ask(secured={"ssl": client(pair=CLIENT)}, headers=claim), "x-forwarded-client-cert")[0]
            assert mine.startswith('Hash=00;Subject="CN=admin",Hash='), "a believed peer's own word is kept in front of ours"
        assert objects.asked == [CaRef(kind=ObjectKind(kind), name="clients", namespace="trust", key="ca.pem")]


@pytest.mark.parametrize(
    ("mode", "kept", "ours"), [("Append", True, True), ("Set", False, True), ("Preserve", True, False), ("Off", False, False)]
)
def test_the_client_certificate_goes_on_by_the_mode_of_the_listener(tmp_path: Path, mode: str, kept: bool, ours: bool) -> None:
    @live
    async def main() -> None:
        files = write(tmp_path, local=LOCAL, ca=CA)
        tls = {"certFile": files["local.crt"], "keyFile": files["local.key"], "clientCA": {"file": files["ca.crt"]}}
        async with ScriptedUpstream(echo_head) as fake:
            async with Chain(document(fake.port, listener={"tls": tls, "forwarded": mode})) as chain:
                echoed = await chain.ask(secured={"ssl": client(pair=CLIENT)}, headers="X-Forwarded-Client-Cert: Hash=00\r\n")
                said = ",".join(field_of(echoed, "x-forwarded-client-cert"))
                assert (said.startswith("Hash=00"), "CN=orders" in said) == (kept, ours)
            async with Chain(document(fake.port, listener={"tls": tls, "forwarded": mode, "trustedProxies": []})) as chain:
                echoed = await chain.ask(secured={"ssl": client(pair=CLIENT)}, headers="X-Forwarded-Client-Cert: Hash=00\r\n")
                said = ",".join(field_of(echoed, "x-forwarded-client-cert"))
                assert ("Hash=00" in said) == (mode == "Preserve"), "who is not believed says nothing about certificates"

    main()


HOSTILE: dict[str, tuple[Pair, str, str]] = {
    "the format's own characters": (
        issue(CA, 'a";URI=spiffe://admin;X="\\', uris=['spiffe://a;URI=spiffe://admin,Hash=x;Subject="'], client=True),
        'Subject="CN=a\\22\\3BURI\\3Dspiffe://admin\\3BX\\3D\\22\\5C";URI="spiffe://a;URI=spiffe://admin,Hash=x;Subject=%22"',
        'spiffe://a;URI=spiffe://admin,Hash=x;Subject="',
    ),
    "ends of lines": (
        issue(CA, "a\r\nX: y", alt_names=general_names((6, b"spiffe://a\r\nX: y\0z")), client=True),
        'Subject="CN=a\\0D\\0AX: y";URI=spiffe://a%0D%0AX:%20y%00z',
        "spiffe://a\r\nX: y\0z",
    ),
    "no UTF-8": (issue(CA, "a", alt_names=general_names((6, b"spiffe://a\xff")), client=True), "", ""),
    "an email that is no UTF-8": (issue(CA, "a", alt_names=general_names((1, b"\xff@a"), (6, b"spiffe://a")), client=True), "", ""),
    "a name that is too long": (
        issue(CA, "a", uris=["spiffe://" + "x" * 5000, "spiffe://b"], client=True),
        'Subject="CN=a";URI=spiffe://b',
        "",
    ),
    "too many names": (
        issue(CA, "a", uris=[f"spiffe://{number}" for number in range(99)], client=True),
        'Subject="CN=a";' + ";".join(f"URI=spiffe://{number}" for number in range(16)),
        "spiffe://0",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_name_in_a_certificate_ends_its_element_or_its_field_early(tmp_path: Path, case: str) -> None:
    pair, names, identity = HOSTILE[case]

    @live
    async def main() -> None:
        files = write(tmp_path, local=LOCAL, ca=CA)
        tls = listening(certFile=files["local.crt"], keyFile=files["local.key"], clientCA={"file": files["ca.crt"]})
        async with ScriptedUpstream(echo_head) as fake, Chain(document(fake.port, listener=tls)) as chain:
            digest = hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest()
            for _ in range(2):  # over several connections
                echoed = await chain.ask(secured={"ssl": careless(pair, tmp_path)})
                assert field_of(echoed, "x-forwarded-client-cert") == [";".join(filter(None, (f"Hash={digest}", names)))]
            if identity or not names:
                assert (await chain.seen.last()).identity == (identity or digest)

    main()


@pytest.mark.parametrize("name", [(6, b"spiffe://\xff"), (7, b"abc")], ids=["no UTF-8", "no address"])
def test_a_server_with_a_name_that_cannot_be_read_has_none_that_is_wanted(tmp_path: Path, name: tuple[int, bytes]) -> None:
    @live
    async def main() -> None:
        files = write(tmp_path, ca=CA)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issue(CA, "a", alt_names=general_names(name)).write(tmp_path, "own")
        context.load_cert_chain(tmp_path / "own.crt", tmp_path / "own.key")
        wanted = [{"type": "Hostname", "hostname": "10.0.0.1"}]
        async with ScriptedUpstream(says("never"), ssl=context) as fake:
            async with Chain(reach(fake, caCertificateRefs=[{"file": files["ca.crt"]}], subjectAltNames=wanted)) as chain:
                assert reason_of(await chain.ask()) == "502 tls_certificate_error"

    main()


def test_a_redirect_of_a_secured_request_stays_secured(tmp_path: Path) -> None:
    @live
    async def main() -> None:
        files = write(tmp_path, local=LOCAL)
        tls = listening(certFile=files["local.crt"], keyFile=files["local.key"])
        route = {"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "b.test"}}], "backendRefs": []}
        async with Chain(document(listener=tls, route=route)) as chain:
            reply = await chain.ask(secured={"ssl": client()}, host="a.test")
            assert (reply.get("location") or "").startswith("https://b.test")

    main()


LONG_BODY = bytes(index * 31 % 253 for index in range(4096)) * 400


async def send_back(connection: Connection) -> None:
    """Answers with the body that it was sent."""
    while True:
        request = await connection.read_request()
        await connection.send(response(body=request.body))


@pytest.mark.parametrize("down", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("up", [False, True], ids=["to http", "to https"])
def test_long_bodies_pass_whole_over_every_combination_of_tls_and_none(tmp_path: Path, down: bool, up: bool) -> None:
    @live
    async def main() -> None:
        files = write(tmp_path, local=LOCAL)
        listener = listening(certFile=files["local.crt"], keyFile=files["local.key"]) if down else None
        more = {"tls": trusting(tmp_path)} if up else {}
        async with ScriptedUpstream(send_back, ssl=server() if up else None) as fake:
            async with Chain(document(fake.url, listener=listener, up=more)) as chain:
                async with await chain.client(ssl=client() if down else None) as one:
                    for _ in range(2):
                        assert (await one.request("/", method="POST", body=LONG_BODY)).body == LONG_BODY

    main()


# proxyURL


def proxy_for(
    port: int, seen: list[bytes], *, answer: bytes = b"HTTP/1.1 200 Connection Established\r\n\r\n"
) -> Callable[[Connection], Any]:
    """An HTTP proxy: CONNECT gets `answer` and, if that is good, a tunnel to `port`; anything else gets the request's head."""

    async def play(connection: Connection) -> None:
        request = await connection.read_request()
        seen.append(request.start)
        seen.extend(value for name, value in request.fields if name.lower() == b"proxy-authorization")
        if not request.start.startswith(b"CONNECT"):
            connection.requests.clear()
            lines = [request.start, *(name + b": " + value for name, value in request.fields)]
            body = b"\n".join(lines)
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        await connection.send(answer)
        if b" 200 " in answer:
            await connection.tunnel_to(port)

    return play


@proves("upstreams[].proxyURL")
@live
async def test_requests_go_to_an_http_proxy_in_absolute_form_with_its_credentials() -> None:
    seen: list[bytes] = []
    async with ScriptedUpstream(proxy_for(0, seen)) as proxy:
        url = f"http://us%65r:p%40ss@127.0.0.1:{proxy.port}"
        async with Chain(document("http://orders.invalid:8080", up={"proxyURL": url})) as chain:
            echoed = await chain.ask("/a?b=c", host="front.test")
    assert line_of(echoed) == "GET http://orders.invalid:8080/a?b=c HTTP/1.1"
    assert field_of(echoed, "host") == ["orders.invalid:8080"]
    assert field_of(echoed, "proxy-authorization") == ["Basic dXNlcjpwQHNz"]


@live
async def test_tls_goes_through_a_tunnel_of_the_proxy_and_the_upstream_never_sees_the_credentials(tmp_path: Path) -> None:
    seen: list[bytes] = []
    async with ScriptedUpstream(echo_head, ssl=server()) as fake, ScriptedUpstream(proxy_for(fake.port, seen)) as proxy:
        up = {"proxyURL": f"http://u:p@127.0.0.1:{proxy.port}", "tls": {"hostname": "a.test", **trusting(tmp_path)}}
        async with Chain(document("https://orders.invalid", up=up)) as chain:
            for _ in range(2):
                echoed = await chain.ask()
                assert field_of(echoed, "proxy-authorization") == []
                assert line_of(echoed) == "GET / HTTP/1.1"
    assert seen == [b"CONNECT orders.invalid:443 HTTP/1.1", b"Basic dTpw"], "the tunnel is kept"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", "500 proxy_configuration_error"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "502 connection_refused"),
        (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "504 connection_timeout"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "502 connection_refused"),
        (b"garbage\r\n\r\n", "502 http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX: y\n\r\n\r\n", "502 http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, "502 http_protocol_error"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 17, "502 http_protocol_error"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 16, "502 connection_terminated"),
        (b"", "502 connection_terminated"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_told_by_its_reason(tmp_path: Path, answer: bytes, reason: str) -> None:
    @live
    async def main() -> None:
        async with ScriptedUpstream(proxy_for(0, [], answer=answer)) as proxy:
            up = {"proxyURL": f"http://127.0.0.1:{proxy.port}", "tls": trusting(tmp_path)}
            async with Chain(document("https://orders.invalid", up=up)) as chain:
                assert reason_of(await chain.ask()) == reason

    main()


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("GET /@evil.test/", "GET http://orders.invalid:81/@evil.test/"),
        ("GET //evil.test/", "GET http://orders.invalid:81//evil.test/"),
        ("GET /\\evil.test", "GET http://orders.invalid:81/\\evil.test"),
        ("GET http://evil.test?@x", "GET http://orders.invalid:81/?@x"),
        ("OPTIONS *", "OPTIONS http://orders.invalid:81"),
    ],
)
@pytest.mark.parametrize("library", ["Native", "Aiohttp", "Httpx"])
def test_no_client_sends_the_proxy_elsewhere_or_learns_or_replaces_its_credentials(library: str, target: str, asked: str) -> None:
    @live
    async def main() -> None:
        lines = "Proxy-Authorization: Basic bWluZQ==\r\nProxy_Authorization: x\r\nProxy-Connection: keep-alive\r\nAuthorization: mine\r\n"
        asks = "Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\nProxy-Connection: close\r\n"
        async with ScriptedUpstream(says("by proxy", headers=asks)) as proxy:
            up = {"proxyURL": f"http://u:p@127.0.0.1:{proxy.port}", "client": library}
            async with Chain(document("http://orders.invalid:81", up=up)) as chain, await chain.client() as one:
                await one.send(f"{target} HTTP/1.1\r\nHost: evil.test\r\n{lines}\r\n".encode())
                reply = await one.read_response()
        request = proxy.requests[0]
        assert request.start == f"{asked} HTTP/1.1".encode()
        assert request.get_all("host") == ["orders.invalid:81"]
        assert [value for name, value in request.fields if name.lower().startswith(b"proxy")] == [b"Basic dTpw"]
        assert request.get_all("authorization") == ["mine"]
        assert not [name for name, _ in reply.fields if name.lower().startswith(b"proxy-") and name != b"Proxy-Status"]

    main()


@live
async def test_upstreams_that_share_a_proxy_share_no_connection() -> None:
    async with ScriptedUpstream(says("by proxy")) as proxy:
        up = {"proxyURL": f"http://u:p@127.0.0.1:{proxy.port}"}
        doc = document("http://orders.invalid:81", up=up)
        doc["upstreams"].append(
            {"name": "other", "targets": [{"url": "http://other.invalid:82"}], "proxyURL": f"http://127.0.0.1:{proxy.port}"}
        )
        doc["routes"].append({"name": "other", "hostnames": ["other.test"], "backendRefs": [{"name": "other"}]})
        async with Chain(doc) as chain, await chain.client() as one:
            for _ in range(2):
                assert (await one.request()).status == (await one.request(host="other.test")).status == 200
        for connection, host, secrets in zip(
            proxy.connections, ("orders.invalid:81", "other.invalid:82"), (["Basic dTpw"], []), strict=True
        ):
            assert [request.get("host") for request in connection.requests] == [host] * 2
            assert [request.get_all("proxy-authorization") for request in connection.requests] == [secrets] * 2


@live
async def test_a_407_to_a_plain_request_is_ours_to_mend_not_the_clients() -> None:
    async with ScriptedUpstream(says("", status="407 Proxy Authentication Required", headers="Proxy-Authenticate: Basic\r\n")) as proxy:
        async with Chain(document("http://orders.invalid", up={"proxyURL": f"http://127.0.0.1:{proxy.port}"})) as chain:
            reply = await chain.ask()
            assert reason_of(reply) == "500 proxy_configuration_error"
            assert reply.get("proxy-authenticate") is None


@live
async def test_an_upgrade_gets_a_tunnel_through_the_proxy() -> None:
    seen: list[bytes] = []

    async def upgrade(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        await connection.send(await connection.read_some())

    async with ScriptedUpstream(upgrade) as fake, ScriptedUpstream(proxy_for(fake.port, seen)) as proxy:
        async with Chain(document("http://orders.invalid:81", up={"proxyURL": f"http://127.0.0.1:{proxy.port}"})) as chain:
            async with await chain.client() as one:
                await one.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                assert b" 101 " in (await one.read_head()).start
                await one.send(b"through")
                assert await one.read_some() == b"through"
    assert seen == [b"CONNECT orders.invalid:81 HTTP/1.1"]

"""Certificates and CA bundles from Secrets and ConfigMaps: tried before use, followed, and never shown."""

from __future__ import annotations

import asyncio
import base64
import ssl
import traceback
from contextlib import asynccontextmanager

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from kube_store import Store
from support.certificates import authority, issue
from support.virtual_time import run_in_virtual_time

from sidecar.kube.api import ApiError, Unreachable
from sidecar.kube.hub import Hub
from sidecar.kube.objects import CONFIG_MAPS, SECRETS
from sidecar.kube.secrets import ca_bundle, key_pair
from sidecar.tls.material import CaBundle, KeyPair, Unusable

CA = authority("test")
ONE, TWO = issue(CA, "one", hosts=["one.test"]), issue(CA, "two", hosts=["two.test"])


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def secret(name: str = "tls", **data: bytes | str):
    """`tls_crt=...`; a text is taken as it is, bytes are encoded."""
    encoded = {key.replace("_", "."): base64_of(value) if isinstance(value, bytes) else value for key, value in data.items()}
    return {"metadata": {"name": name}, "type": "kubernetes.io/tls", "data": encoded}


def tls(pair) -> dict:
    return secret(tls_crt=pair.pem, tls_key=pair.key_pem)


def encrypted(pair) -> bytes:
    how = serialization.BestAvailableEncryption(b"password")
    return pair.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, how)


class Followed:
    def __init__(self, store: Store, make) -> None:
        self.store = store
        self.hub = Hub(store.connect)
        self.seen: list[KeyPair | CaBundle] = []
        self.source = make(self.hub, self.seen.append)

    async def until(self, condition) -> None:
        async with asyncio.timeout(120):
            while not condition(self):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def followed(store: Store, make=lambda hub, on_change: key_pair(hub, "shop", "tls", on_change)):
    it = Followed(store, make)
    try:
        await it.source.settled()
        yield it
    finally:
        it.source.close()
        await it.hub.aclose()


def test_a_secret_gives_a_certificate_with_its_key_that_tls_can_use():
    async def main() -> None:
        store = Store()
        await store.put(SECRETS, tls(ONE))
        async with followed(store) as it:
            pair = it.source.value
            assert (pair.certificate.strip(), pair.key.strip()) == (ONE.pem.strip(), ONE.key_pem.strip())
            assert it.seen == [pair]
            assert it.source.problem == ""
            assert handshake(pair) == "one.test"

    uvloop.run(main())


def handshake(pair: KeyPair) -> str:
    """The name in the certificate that a client sees."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    pair.load_into(server)
    CaBundle(CA.pem).load_into(client)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    done = [False, False]
    while not all(done):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                pass
    return ends[0].getpeercert()["subjectAltName"][0][1]


def test_a_rotation_is_handed_over_once_and_an_edit_that_changes_nothing_is_not():
    async def main() -> None:
        store = Store()
        await store.put(SECRETS, tls(ONE))
        async with followed(store) as it:
            await store.put(SECRETS, {**tls(ONE), "type": "Opaque"})
            await store.put(SECRETS, tls(TWO))
            await it.until(lambda it: it.source.value != it.seen[0])
            assert [handshake(pair) for pair in it.seen] == ["one.test", "two.test"]

    uvloop.run(main())


BAD = {
    "a key of another certificate": (secret(tls_crt=TWO.pem, tls_key=ONE.key_pem), "tls.key does not belong to tls.crt"),
    "an encrypted key": (secret(tls_crt=ONE.pem, tls_key=encrypted(ONE)), "tls.key is encrypted"),
    "no key": (secret(tls_crt=ONE.pem), "it has no key tls.key"),
    "nothing": ({"metadata": {"name": "tls"}}, "it has no key tls.crt"),
    "no base64": (secret(tls_crt=ONE.pem, tls_key="**secret**"), "tls.key is not base64"),
    "no PEM": (secret(tls_crt=b"hello", tls_key=b"hello"), "are not a certificate and its key in PEM"),
    "a broken key": (secret(tls_crt=ONE.pem, tls_key=ONE.key_pem.replace(b"M", b"N")), "are not a certificate and its key in PEM"),
    "a broken certificate": (secret(tls_crt=ONE.pem.replace(b"MII", b"AAA"), tls_key=ONE.key_pem), "are not a certificate"),
    "data of another shape": ({"metadata": {"name": "tls"}, "data": ["tls.crt"]}, "it has no key tls.crt"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_a_problem_and_the_last_good_one_stays(case, caplog):
    bad, said = BAD[case]

    async def main() -> None:
        store = Store()
        await store.put(SECRETS, bad)
        async with followed(store) as it:
            assert it.source.value is None
            assert it.source.problem.startswith("Secret shop/tls: ")
            assert said in it.source.problem
            await store.put(SECRETS, tls(ONE))
            await it.until(lambda it: it.seen)
            assert it.source.problem == ""
            await store.put(SECRETS, bad)
            await it.until(lambda it: it.source.problem)
            assert it.source.value is it.seen[-1]
            assert len(it.seen) == 1
            await store.put(SECRETS, tls(ONE))
            await it.until(lambda it: not it.source.problem)

    caplog.set_level("DEBUG")
    uvloop.run(main())
    assert [record.event for record in caplog.records] == ["certificate_failed", "certificate_loaded"] * 2
    assert "the last good one stays" in caplog.records[2].message


def test_a_deleted_secret_leaves_its_last_value_in_use_and_a_new_one_is_followed():
    async def main() -> None:
        store = Store()
        async with followed(store) as it:
            assert it.source.problem == "Secret shop/tls: it does not exist"
            await store.put(SECRETS, tls(ONE))
            await it.until(lambda it: it.seen)
            await store.delete(SECRETS, "tls")
            await it.until(lambda it: it.source.problem == "Secret shop/tls: it has been deleted")
            assert handshake(it.source.value) == "one.test"
            await store.put(SECRETS, tls(TWO))
            await it.until(lambda it: len(it.seen) == 2)

    uvloop.run(main())


def test_while_the_api_is_away_the_last_value_stays_and_what_was_wrong_before_is_not_forgotten():
    async def main() -> None:
        store = Store()
        await store.put(SECRETS, tls(ONE))
        async with followed(store) as it:
            await asyncio.sleep(5)
            await store.put(SECRETS, BAD["no key"][0])
            await it.until(lambda it: "no key" in it.source.problem)
            await asyncio.sleep(5)
            await store.fail(Unreachable("connection refused"))
            await it.until(lambda it: "connection refused" in it.source.problem)
            store.mend()
            await it.until(lambda it: "no key" in it.source.problem)
            assert it.source.value is it.seen[0]

    run_in_virtual_time(main())


def test_a_missing_right_names_the_rule_for_this_one_secret():
    async def main() -> None:
        store = Store()
        await store.fail(ApiError("no", status=403, reason="Forbidden"))
        async with followed(store) as it:
            assert "resources: [secrets], resourceNames: [tls], verbs: [list, watch]} in namespace shop" in it.source.problem

    run_in_virtual_time(main())


# CA bundles


def config_map_ca(hub, on_change):
    return ca_bundle(hub, CONFIG_MAPS, "shop", "ca", "ca.crt", on_change)


def test_a_bundle_comes_from_a_config_maps_text_or_binary_data_or_from_a_secret():
    async def main() -> None:
        store, other = Store(), authority("other")
        both = b"# ours\n" + CA.pem + b"\n# theirs\n" + other.pem
        await store.put(CONFIG_MAPS, {"metadata": {"name": "ca"}, "data": {"ca.crt": both.decode()}})
        async with followed(store, config_map_ca) as it:
            assert it.source.value.count == 2
            assert "# ours" not in it.source.value.pem
            await store.put(CONFIG_MAPS, {"metadata": {"name": "ca"}, "binaryData": {"ca.crt": base64_of(CA.pem)}})
            await it.until(lambda it: it.source.value.count == 1)
        await store.put(SECRETS, secret("ca", ca_crt=CA.pem))
        async with followed(store, lambda hub, on_change: ca_bundle(hub, SECRETS, "shop", "ca", "ca.crt", on_change)) as it:
            assert it.source.value == CaBundle(CA.pem)

    uvloop.run(main())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"ca.crt": "hello"}, "it holds no PEM certificate"),
        ({"ca.crt": CA.pem.decode().replace("MII", "AAA")}, "it holds a certificate that cannot be read"),
        ({"other": "x"}, "it has no key ca.crt"),
        (None, "it has no key ca.crt"),
    ],
)
def test_a_bundle_without_a_certificate_is_a_problem(data, said):
    async def main() -> None:
        store = Store()
        await store.put(CONFIG_MAPS, {"metadata": {"name": "ca"}, "data": data})
        async with followed(store, config_map_ca) as it:
            assert it.source.problem == f"ConfigMap shop/ca: {said}"
            assert it.source.value is None

    uvloop.run(main())


# Nothing secret is shown


def secrets_of(pair) -> list[str]:
    """Every line of the key, plain and encoded."""
    lines = [line for line in pair.key_pem.decode().splitlines() if "-----" not in line]
    return [*lines, base64_of(pair.key_pem)[64:128]]


def assert_hidden(text: str, *pairs) -> None:
    for pair in pairs:
        for line in secrets_of(pair):
            assert line not in text


def test_a_key_shows_in_no_text_that_python_makes_of_its_pair():
    pair = KeyPair(ONE.pem, ONE.key_pem)
    assert_hidden(f"{pair!r} {pair} {pair!s} {[pair]} {CaBundle(CA.pem)!r}", ONE)
    assert pair.digest in repr(pair)


def test_a_key_that_was_put_beside_the_certificate_is_not_taken_for_public():
    pair = KeyPair(ONE.key_pem + ONE.pem, ONE.key_pem)
    assert pair.certificate.strip() == ONE.pem.strip()
    assert_hidden(pair.certificate.decode(), ONE)


@pytest.mark.parametrize("case", [case for case in BAD if "key" in case])
def test_a_key_shows_in_no_error_log_line_or_object_that_has_to_do_with_it(case, caplog):
    texts: list[str] = []

    async def main() -> None:
        store = Store()
        await store.put(SECRETS, BAD[case][0])
        async with followed(store) as it:
            await store.put(SECRETS, tls(ONE))
            await it.until(lambda it: it.seen)
            await store.put(SECRETS, tls(TWO))
            await it.until(lambda it: len(it.seen) == 2)
            await store.fail(Unreachable("gone"))
            await it.until(lambda it: it.source.problem)
            texts.extend([repr(it.source), str(vars(it.source)), it.source.problem, str(it.hub.statuses()), repr(vars(it.hub))])

    caplog.set_level("DEBUG")
    uvloop.run(main())
    texts += [f"{record.message} {vars(record)}" for record in caplog.records]
    assert_hidden("\n".join(texts), ONE, TWO)
    assert "**secret**" not in "\n".join(texts)


def test_an_unusable_key_shows_in_no_traceback():
    with pytest.raises(Unusable) as raised:
        KeyPair(TWO.pem, ONE.key_pem)
    assert raised.value.__suppress_context__
    assert_hidden("".join(traceback.format_exception(raised.value)), ONE)

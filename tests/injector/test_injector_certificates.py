"""Authorities and leaves, by the clock: what they are, when they are renewed, and what is refused of a Secret."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from support.certificates import authority, issue

from sidecar.injector.authority import hosts_of
from sidecar.injector.certificates import BACKDATED, MAX_TRUSTED, Authority, authorities, expiry, still_trusted
from sidecar.tls.material import Unusable

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
WEEK = timedelta(days=7)
HOSTS = hosts_of("outrider-injector", "outrider-system")


def test_a_leaf_is_for_the_service_and_no_authority_and_an_authority_signs_no_other() -> None:
    signer = Authority.make(NOW, YEAR)
    leaf = x509.load_pem_x509_certificate(signer.issue(HOSTS, NOW, WEEK).pair.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "outrider-injector.outrider-system.svc",
        "outrider-injector.outrider-system.svc.cluster.local",
        "outrider-injector.outrider-system",
        "outrider-injector",
        "localhost",
    ]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    root = x509.load_pem_x509_certificate(signer.pem)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert (root.not_valid_after_utc, root.not_valid_before_utc) == (NOW + YEAR, NOW - BACKDATED)


def test_openssl_verifies_a_leaf_by_the_strictest_rules_it_has(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    signer = Authority.make(now, YEAR)
    (tmp_path / "ca.pem").write_bytes(signer.pem)
    (tmp_path / "leaf.pem").write_bytes(signer.issue(HOSTS, now, WEEK).pair.certificate)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", HOSTS[0], "-CAfile", "ca.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_both_are_renewed_after_two_thirds_and_a_leaf_never_outlives_its_authority() -> None:
    signer = Authority.make(NOW, timedelta(days=3))
    assert signer.renew_at == NOW + timedelta(days=2)
    leaf = signer.issue(HOSTS, NOW + timedelta(days=2), WEEK)
    assert leaf.expires == signer.expires == NOW + timedelta(days=3)
    assert leaf.renew_at == NOW + timedelta(days=2, hours=16)


def test_an_authority_comes_back_from_its_secret() -> None:
    made = Authority.make(NOW, YEAR)
    read = Authority.parse(made.pem, made.key_pem, NOW)
    assert (read.pem, read.key_pem, read.renew_at) == (made.pem, made.key_pem, made.renew_at)


CA = authority("somebody's")
LEAF = issue(CA, "leaf", hosts=["a"])
USELESS = {
    "empty": (b"", b"", "PEM"),
    "nonsense": (b"\xff\x00", b"x", "PEM"),
    "another's key": (CA.pem, LEAF.key_pem, "does not belong"),
    "a leaf": (LEAF.pem, LEAF.key_pem, "not that of an authority"),
    "a public key for a key": (CA.pem, CA.pem, "PEM"),
}


@pytest.mark.parametrize(("certificate", "key", "words"), USELESS.values(), ids=USELESS)
def test_what_is_no_authority_is_refused(certificate: bytes, key: bytes, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        Authority.parse(certificate, key, NOW)


def test_one_that_has_expired_is_refused_and_one_that_begins_later_is_not() -> None:
    """A clock that is behind must not replace what the others have made."""
    made = Authority.make(NOW, YEAR)
    with pytest.raises(Unusable, match="expired"):
        Authority.parse(made.pem, made.key_pem, NOW + YEAR)
    assert Authority.parse(made.pem, made.key_pem, NOW - WEEK).pem == made.pem


def test_what_was_trusted_stays_so_until_it_expires_the_newest_first_and_nobody_elses() -> None:
    old, older = Authority.make(NOW - WEEK, YEAR), Authority.make(NOW - 2 * WEEK, YEAR)
    gone = Authority.make(NOW - 2 * YEAR, YEAR)
    texts = [
        b"\xffrubbish" + older.pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        CA.pem + gone.pem + old.pem,
        old.pem,
    ]
    assert still_trusted(texts, NOW) == [old.pem, older.pem]
    many = [Authority.make(NOW, YEAR).pem for _ in range(2 * MAX_TRUSTED)]
    assert len(still_trusted(many, NOW)) == MAX_TRUSTED - 1


def test_a_bundle_holds_authorities_only_each_once() -> None:
    one, two = Authority.make(NOW, YEAR).pem, Authority.make(NOW, YEAR).pem
    assert authorities(one + LEAF.pem + two + one + b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----") == [one, two]


def test_keys_are_in_no_text() -> None:
    signer = Authority.make(NOW, YEAR)
    leaf = signer.issue(HOSTS, NOW, WEEK)
    assert "PRIVATE" not in repr(leaf) + repr(signer)


def test_a_new_certificate_on_a_live_context_is_shown_to_the_next_client() -> None:
    signer = Authority.make(datetime.now(UTC), YEAR)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.create_default_context(cadata=signer.pem.decode())
    seen = set()
    for _ in range(2):
        leaf = signer.issue(HOSTS, datetime.now(UTC), WEEK)
        leaf.pair.load_into(server)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = client.wrap_bio(to_client, to_server, server_hostname=HOSTS[0])
        other = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (one, other, one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        seen.add(one.getpeercert(binary_form=True))
        assert expiry(leaf.pair.certificate) == leaf.expires
    assert len(seen) == 2

"""Reading a certificate: the same as what `cryptography` reads, and nothing but ValueError for what is none."""

from __future__ import annotations

import base64
import random
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.certificates import authority, issue
from support.tls import CA, CLIENT, LOCAL

from sidecar.tls.certificate import read_certificate
from sidecar.tls.material import CaBundle, KeyPair, Unusable


@pytest.mark.parametrize("pair", [CA, LOCAL, CLIENT, issue(CA, "far", valid=(-1, 24 * 365 * 60), hosts=["fd00::1"])])
def test_times_and_names_are_those_that_are_in_it(pair) -> None:
    read = read_certificate(pair.pem.decode())
    assert read.not_after == pair.certificate.not_valid_after_utc.timestamp()
    assert read.not_before == pair.certificate.not_valid_before_utc.timestamp()


def test_every_kind_of_name_is_found() -> None:
    read = read_certificate(issue(CA, "x", hosts=["a.test", "*.b.test", "10.0.0.1", "fd00::1"], uris=["spiffe://a/b"]).pem.decode())
    assert (read.dns, read.addresses, read.uris) == (("a.test", "*.b.test"), ("10.0.0.1", "fd00::1"), ("spiffe://a/b",))


def test_what_is_no_certificate_is_a_value_error_and_nothing_else() -> None:
    der = ssl.PEM_cert_to_DER_cert(LOCAL.pem.decode())
    dice = random.Random(7)
    for _ in range(2000):
        data = bytearray(der[: dice.randrange(1, len(der) + 1)])
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(bytes(data)).decode()}-----END CERTIFICATE-----\n"
        try:
            read_certificate(pem)
        except ValueError:
            continue


def test_a_pair_says_what_is_wrong_with_it_by_the_names_of_its_files_and_shows_no_secret() -> None:
    other = issue(CA, "other")
    weak = issue(CA, "weak", key=rsa.generate_private_key(65537, 1024))
    for certificate, key, said in (
        (LOCAL.pem, other.key_pem, "/k.pem does not belong to /c.pem"),
        (b"nothing", LOCAL.key_pem, "/c.pem and /k.pem are not a certificate and its key"),
        (weak.pem, weak.key_pem, "too weak"),
    ):
        with pytest.raises(Unusable, match=said) as caught:
            KeyPair(certificate, key, ("/c.pem", "/k.pem"))
        assert "PRIVATE" not in str(caught.value)


def test_a_bundle_with_an_expired_authority_beside_a_good_one_is_a_bundle() -> None:
    assert CaBundle(CA.pem + authority("b").pem).count == 2

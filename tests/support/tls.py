"""Contexts for the peers of tests: servers and clients of TLS that the sidecar meets."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from sidecar.tls.material import CaBundle, KeyPair
from support.certificates import Pair, authority, issue

CA = authority("the tests' authority")
OTHER_CA = authority("an authority that nobody knows")
LOCAL = issue(CA, "local", hosts=["127.0.0.1", "localhost", "a.test", "*.wild.test"])
"""For a server on the loopback."""
CLIENT = issue(CA, "orders", organization="shop", hosts=["orders.shop"], uris=["spiffe://cluster.local/ns/shop/sa/orders"], client=True)


def server(pair: Pair = LOCAL, *, chain: bytes = b"", clients: Pair | None = None, **settings: Any) -> ssl.SSLContext:
    """Of an upstream: `chain` follows its certificate, `clients` is whose certificates it insists on; `settings` are attributes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    KeyPair(pair.pem + chain, pair.key_pem).load_into(context)
    if clients is not None:
        CaBundle(clients.pem).load_into(context)
        context.verify_mode = ssl.CERT_REQUIRED
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def client(ca: Pair = CA, *, pair: Pair | None = None, **settings: Any) -> ssl.SSLContext:
    """Of a client that believes `ca` and shows `pair`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CaBundle(ca.pem).load_into(context)
    if pair is not None:
        KeyPair(pair.pem, pair.key_pem).load_into(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def careless(pair: Pair, folder: Path) -> ssl.SSLContext:
    """Of a client that shows `pair` whatever is in it, and verifies nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pair.write(folder, "careless")
    context.load_cert_chain(folder / "careless.crt", folder / "careless.key")
    return context


def write(folder: Path, **pairs: Pair) -> dict[str, str]:
    """NAME.crt and NAME.key of each pair; the paths by `NAME.crt` and `NAME.key`."""
    for name, pair in pairs.items():
        pair.write(folder, name)
    return {f"{name}.{kind}": str(folder / f"{name}.{kind}") for name in pairs for kind in ("crt", "key")}

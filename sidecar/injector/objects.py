"""The objects that `Keeper` keeps right, as JSON: the Secret with the authority, and webhook configurations. Pure."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Final

from sidecar.kube.objects import Json
from sidecar.tls.material import Unusable

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
CONTROLLER: Final = "outrider-injector"


def secret_with(name: str, found: Json | None, data: Mapping[str, bytes], owner: list[Json]) -> Json:
    """The Secret to write: new, or in the place of `found`, whose metadata it keeps."""
    body: Json = {"apiVersion": "v1", "kind": "Secret", "data": {key: b64encode(value).decode("ascii") for key, value in data.items()}}
    if found is None:
        labels = {"app.kubernetes.io/name": "outrider", MANAGED_BY: CONTROLLER}
        return body | {"type": "Opaque", "metadata": {"name": name, "labels": labels, "ownerReferences": owner}}
    return body | {"type": found.get("type", "Opaque"), "metadata": found["metadata"]}


def is_made_here(metadata: Json) -> bool:
    """Whether a Secret is one that we made, and not a chart's or a person's."""
    return bool((metadata.get("labels") or {}).get(MANAGED_BY) == CONTROLLER)


def value_of(found: Json, key: str) -> bytes:
    """What a Secret holds under a key. Raises Unusable."""
    data = found.get("data")
    text = data.get(key) if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise Unusable(f"it has no key {key}")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unusable(f"{key} is not base64") from None


def value_or_nothing(found: Json, key: str) -> bytes:
    """The same, b"" where there is none."""
    try:
        return value_of(found, key)
    except Unusable:
        return b""


def webhooks_of(configuration: Json) -> list[Json]:
    """The entries of a webhook configuration."""
    found = configuration.get("webhooks")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def names_of(configuration: Json) -> list[str]:
    """Their names."""
    return [str(webhook.get("name")) for webhook in webhooks_of(configuration)]


def bundle_of(webhook: Json) -> bytes:
    """The caBundle of an entry, PEM; b"" where there is none."""
    config = webhook.get("clientConfig")
    text = config.get("caBundle") if isinstance(config, dict) else None
    try:
        return b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def has_another_bundle(configuration: Json, bundle: bytes) -> bool:
    """Whether any of its entries has."""
    return any(bundle_of(webhook) != bundle for webhook in webhooks_of(configuration))


def trusts(configuration: Json | None, signer: bytes) -> bool:
    """Whether all of its entries trust an authority (PEM)."""
    return configuration is not None and all(signer in bundle_of(webhook) for webhook in webhooks_of(configuration))

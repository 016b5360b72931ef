"""Certificates and CA bundles from Secrets and ConfigMaps, followed through the API (product.md 3.9, TLS shapes).

    source = key_pair(hub, "shop", "orders-tls", on_change)     # a Secret with tls.crt and tls.key
    source = ca_bundle(hub, CONFIG_MAPS, "shop", "internal-ca", "ca.crt", on_change)
    await source.settled()      # the first answer has come, good or bad
    source.value                # KeyPair | None; source.problem says why there is none, or why it may be old
    source.close()

`on_change(value)` is called with the first good value and with each one that differs from the one before. A value has been
tried before it is handed over: a key that does not belong to its certificate, or a bundle that holds no certificate, is a
problem and changes nothing. So is a deletion: the last good value stays. What is secret shows in no `repr`, message or
log line; values are told apart by a digest of their public part.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from sidecar.kube.hub import Hub
from sidecar.kube.objects import CONFIG_MAPS, SECRETS, Json, Resource, Selection
from sidecar.model.tls import CertificateRef, ObjectKind
from sidecar.tls.material import CERTIFICATE, PRIVATE_KEY, CaBundle, KeyPair, Unusable
from sidecar.tls.store import Reference

log = logging.getLogger("outrider")

_KIND: Final = {CONFIG_MAPS: "ConfigMap", SECRETS: "Secret"}


Value = TypeVar("Value", bound=KeyPair | CaBundle)


class FollowedValue(Generic[Value]):
    """One value of one object, followed until it is closed; a Sink. Made by `key_pair` and `ca_bundle`."""

    def __init__(self, hub: Hub, selection: Selection, read: Callable[[Json], Value], on_change: Callable[[Value], None]) -> None:
        self.value: Value | None = None
        """The newest good one."""
        self._unusable = ""
        """What is wrong with the object as it is now."""
        self._lost = ""
        """Why it cannot be read now."""
        self._said = ""
        where = f"{selection.namespace}/" if selection.namespace else ""
        self._name = f"{_KIND[selection.resource]} {where}{selection.name}"
        self._object = selection.name
        self._read = read
        self._on_change = on_change
        self._settled = asyncio.Event()
        self._subscription = hub.follow(selection, self)

    @property
    def problem(self) -> str:
        """Why there is no value, or why it may be old; "" when all is well."""
        why = self._lost or self._unusable
        return f"{self._name}: {why}" if why else ""

    async def settled(self) -> None:
        """Wait until the first answer has come, good or bad."""
        await self._settled.wait()

    def close(self) -> None:
        """Follow it no longer."""
        self._subscription.close()

    def changed(self, objects: Mapping[str, Json]) -> None:
        """See Sink."""
        self._lost, self._unusable = "", ""
        value = self.value
        try:
            value = self._read_from(objects)
        except Unusable as error:
            self._unusable = str(error)
        new = value is not None and value != self.value
        self.value = value
        self._say(new=new)
        if new and value is not None:
            self._on_change(value)

    def lost(self, message: str) -> None:
        """See Sink."""
        self._lost = message
        self._say()

    def regained(self) -> None:
        """See Sink."""
        self._lost = ""
        self._say()

    def _read_from(self, objects: Mapping[str, Json]) -> Value:
        found = objects.get(self._object)
        if found is None:
            raise Unusable("it does not exist" if self.value is None else "it has been deleted")
        return self._read(found)

    def _say(self, *, new: bool = False) -> None:
        self._settled.set()
        problem = self.problem
        before, self._said = self._said, problem
        if problem and problem != before:
            stays = "there is none" if self.value is None else "the last good one stays"
            log.warning("%s; %s", problem, stays, extra={"event": "certificate_failed"})
        elif new or (before and not problem):
            log.info("%s: %r is in use", self._name, self.value, extra={"event": "certificate_loaded"})


def key_pair(hub: Hub, namespace: str, name: str, on_change: Callable[[KeyPair], None]) -> FollowedValue[KeyPair]:
    """Follow the certificate and key of the Secret `name`; `namespace` "": the default one."""

    def read(found: Json) -> KeyPair:
        return KeyPair(_decoded(found, "data", CERTIFICATE), _decoded(found, "data", PRIVATE_KEY))

    return FollowedValue(hub, Selection(SECRETS, namespace, name), read, on_change)


def ca_bundle(
    hub: Hub, resource: Resource, namespace: str, name: str, key: str, on_change: Callable[[CaBundle], None]
) -> FollowedValue[CaBundle]:
    """Follow the CA certificates under `key` of a Secret or ConfigMap (`resource`); `namespace` "": the default one."""

    def read(found: Json) -> CaBundle:
        if resource == CONFIG_MAPS:
            text = found.get("data", {}).get(key) if isinstance(found.get("data"), dict) else None
            return CaBundle(text.encode() if isinstance(text, str) else _decoded(found, "binaryData", key))
        return CaBundle(_decoded(found, "data", key))

    return FollowedValue(hub, Selection(resource, namespace, name), read, on_change)


def follow_reference(
    hub: Hub, namespace: str, reference: Reference, changed: Callable[[], None]
) -> FollowedValue[KeyPair] | FollowedValue[CaBundle]:
    """See `tls.store.Follow`; `namespace` is that of references that name none."""
    place = reference.namespace or namespace
    assert reference.name is not None, "whoever calls knows that it names an object"
    if isinstance(reference, CertificateRef):
        return key_pair(hub, place, reference.name, lambda _: changed())
    resource = CONFIG_MAPS if reference.kind is ObjectKind.CONFIG_MAP else SECRETS
    return ca_bundle(hub, resource, place, reference.name, reference.key, lambda _: changed())


def _decoded(found: Json, field: str, key: str) -> bytes:
    data = found.get(field)
    text = data.get(key) if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise Unusable(f"it has no key {key}")
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise Unusable(f"{key} is not base64") from None

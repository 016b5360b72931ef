"""ConfigMapSource: follows one key of one ConfigMap through the API (product.md 3.6, kubernetes.md 3.3).

It is both ends of the line: a Sink of the reflector, which tells what the ConfigMap is now, and a ConfigSource, which
puts documents into the mailbox. What changes in one go is one document.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import logging
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sidecar.config.source import Mailbox, Offer, Unavailable
from sidecar.kube.hub import Hub
from sidecar.kube.objects import CONFIG_MAPS, Json, Selection

log = logging.getLogger("outrider")

SOURCE: Final = "configmap"
QUIET_SECONDS: Final = 0.04
MAX_UNQUIET_SECONDS: Final = 0.25
"""Somebody may write ten times in a row: wait for silence, but not for ever."""
_KEYS_SHOWN: Final = 10


class Reference(NamedTuple):
    """`[NAMESPACE/]NAME` and the key that holds the document. `namespace` "": not known yet."""

    namespace: str
    name: str
    key: str

    def __str__(self) -> str:
        """For messages."""
        return f"ConfigMap {self.namespace}/{self.name}"


class ConfigMapSource:
    """`--configmap [NAMESPACE/]NAME`. Without a namespace it is the one that comes with the access to the API server."""

    name = SOURCE

    def __init__(self, hub: Hub, reference: Reference, *, cluster: str = "") -> None:
        self.reference = reference
        self._hub = hub
        self._cluster = cluster
        """What tells clusters apart, as far as the flags do."""
        self._located = asyncio.Event()
        self._mailbox: Mailbox | None = None
        self._news: Offer | Unavailable | None = None
        """What the ConfigMap is, as far as is known."""
        self._told: Offer | Unavailable | None = None
        """What was put last; None after a loss, so that everything is told again."""
        self._timer: asyncio.TimerHandle | None = None
        self._unquiet_since = 0.0
        self._was_there = False
        self._immutable = ""
        """The uid of the immutable ConfigMap that was talked about."""

    @property
    def origin(self) -> str:
        """Where its documents come from (see `Offer`); "" while the namespace is not known."""
        if not self.reference.namespace:
            return ""
        origin = f"{self.reference} key {self.reference.key}"
        return f"{origin} of {self._cluster}" if self._cluster else origin

    async def located(self, seconds: float) -> None:
        """Wait until `origin` is known, but no longer than `seconds`. Takes files of this machine, not an answer of the API server."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._located.wait()

    async def run(self, mailbox: Mailbox) -> None:
        """Follow it until cancelled."""
        self._mailbox = mailbox
        subscription = self._hub.follow(Selection(CONFIG_MAPS, self.reference.namespace, self.reference.name), self)
        try:
            if not self.reference.namespace:
                self.reference = self.reference._replace(namespace=(await self._hub.access()).namespace)
            self._located.set()
            await asyncio.Event().wait()
        finally:
            subscription.close()
            self._stop_timer()

    # -- Sink

    def changed(self, objects: Mapping[str, Json]) -> None:
        """What there is now. The first answer is told at once, later ones when it has been quiet for a moment."""
        first = self._news is None
        found = objects.get(self.reference.name)
        self._news = self._missing() if found is None else self._read(found)
        if first or self._told is None:
            self._tell()
        else:
            self._tell_soon()

    def lost(self, message: str) -> None:
        """The API cannot be asked."""
        self._tell()
        self._told = None
        self._put(Unavailable(SOURCE, message))

    def regained(self) -> None:
        """It can be asked again, and there is nothing new."""
        self._tell()

    # -- telling

    def _tell_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._unquiet_since = loop.time()
        self._stop_timer()
        until = self._unquiet_since + MAX_UNQUIET_SECONDS
        self._timer = loop.call_at(min(loop.time() + QUIET_SECONDS, until), self._tell)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._stop_timer()
        if self._news is not None and self._news != self._told:
            self._told = self._news
            self._put(self._news)

    def _put(self, news: Offer | Unavailable) -> None:
        assert self._mailbox is not None
        self._mailbox.put(news)

    # -- reading

    def _missing(self) -> Unavailable:
        name, namespace, key = self.reference.name, self.reference.namespace, self.reference.key
        if self._was_there:
            return Unavailable(
                SOURCE, f"{self.reference} has been deleted (the last good configuration stays; create it again to change it)"
            )
        how = f"kubectl create configmap {name} --namespace {namespace} --from-file={key}"
        return Unavailable(SOURCE, f"{self.reference} does not exist (create it: {how})")

    def _read(self, found: Json) -> Offer | Unavailable:
        self._was_there = True
        metadata = _mapping(found.get("metadata"))
        uid = str(metadata.get("uid", ""))
        if found.get("immutable") is True and self._immutable != uid:
            self._immutable = uid
            self._say_immutable()
        key = self.reference.key
        data, binary = _mapping(found.get("data")), _mapping(found.get("binaryData"))
        if isinstance(text := data.get(key), str):
            document = text.encode("utf-8", "surrogatepass")
        elif isinstance(encoded := binary.get(key), str):
            try:
                document = b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                return Unavailable(SOURCE, f"{self.reference} has no Base64 in binaryData[{key}]")
        else:
            return Unavailable(SOURCE, f"{self.reference} {_without(key, [*data, *binary])}")
        return Offer(SOURCE, str(metadata.get("resourceVersion", "")), document, self.origin, uid)

    def _say_immutable(self) -> None:
        fields = {"source": SOURCE}
        log.warning(
            "%s is immutable: nobody can edit it, a change means to delete it and create it again",
            self.reference,
            extra={"event": "config_warning", "fields": fields},
        )


def _without(key: str, there: list[str]) -> str:
    if not there:
        return f"has no keys (write the document under {key})"
    names = ", ".join(sorted(there)[:_KEYS_SHOWN])
    more = f" and {len(there) - _KEYS_SHOWN} more" if len(there) > _KEYS_SHOWN else ""
    return f"has no key {key} (it has {names}{more}; write the document under {key}, or name its key with --configmap-key)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

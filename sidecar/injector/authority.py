"""Keeper: certificates of the injector's own. One authority in a Secret for all replicas, its certificate in every caBundle, a leaf per replica.

Level-triggered and the same in every replica: it looks at the Secret and at the webhook configurations, which it follows,
and mends what is not as it should be. There is no leader, because there is nothing to elect one for: every write names the
version it is based on, so the API server takes one of several and tells the others (409), who look again and find the work
done. A bundle is written only after the Secret has been read anew, so a replica that lags behind never takes a new
authority out again. Elections would add a Lease, its rights, and minutes in which nobody mends.

A new authority is put next to the old one, in the Secret and in the bundles, and signs nothing for `settle` seconds: until
then API servers may not have heard of it. The old one stays trusted until it expires, since others still show leaves of
it. Losing the Secret, or finding nonsense in it, is answered the same way. Leaves and their keys are in memory alone.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Final, NamedTuple

from sidecar.injector.certificates import Authority, Leaf, Lifetimes, authorities, still_trusted
from sidecar.injector.objects import (
    bundle_of,
    has_another_bundle,
    is_made_here,
    names_of,
    secret_with,
    trusts,
    value_of,
    value_or_nothing,
    webhooks_of,
)
from sidecar.kube.api import ApiError, KubeApi, KubeError
from sidecar.kube.backoff import Backoff, Pace
from sidecar.kube.failures import longest_wait
from sidecar.kube.hub import Hub
from sidecar.kube.objects import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Json, Resource, Selection
from sidecar.tls.material import Unusable

log = logging.getLogger("outrider")

CERTIFICATE: Final = "ca.crt"
KEY: Final = "ca.key"
PREVIOUS: Final = "ca-previous.crt"
"""Keys of the Secret: the authority that signs, its key, and those before it that are still trusted."""
SETTLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 30.0
"""Clocks are looked at so often, also when nothing has changed: a machine that slept misses timers."""
SOON_SECONDS: Final = 0.5
"""Until the next look when something has just become due, or is and another replica is at it."""
_WEBHOOKS: Final = {MUTATING_WEBHOOKS: "MutatingWebhookConfiguration", VALIDATING_WEBHOOKS: "ValidatingWebhookConfiguration"}


class Place(NamedTuple):
    """Where things are kept."""

    namespace: str
    secret: str
    webhooks: str
    """The name of both webhook configurations; one of them may be absent."""


class Kept(NamedTuple):
    """A good Secret: the authority that signs, and all that are to be trusted (PEM)."""

    authority: Authority
    bundle: bytes


class Followed:
    """One object by its name, as it is now; a Sink."""

    def __init__(self, hub: Hub, selection: Selection, stir: Callable[[], None]) -> None:
        self.known = False
        self.object: Json | None = None
        """None: it does not exist, or is not `known` yet."""
        self.lost_because = ""
        self._name = selection.name
        self._stir = stir
        self._subscription = hub.follow(selection, self)

    def changed(self, objects: Mapping[str, Json]) -> None:
        """See Sink."""
        self.known, self.object, self.lost_because = True, objects.get(self._name), ""
        self._stir()

    def lost(self, message: str) -> None:
        """See Sink."""
        self.lost_because = message
        log.warning("%s; what is known stays", message, extra={"event": "certificate_failed"})

    def regained(self) -> None:
        """See Sink."""
        self.lost_because = ""

    def close(self) -> None:
        """Follow it no longer."""
        self._subscription.close()


class Keeper:
    """`run` until cancelled; `use` gets each new leaf. `hosts`: what leaves are valid for.

    `clock` is the wall clock, which certificates go by; waiting goes by the event loop's.
    """

    def __init__(
        self,
        hub: Hub,
        place: Place,
        hosts: Sequence[str],
        use: Callable[[Leaf], None],
        *,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008 - frozen
        settle: float = SETTLE_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._hub = hub
        self._place = place
        self._hosts = hosts
        self._use = use
        self._lifetimes = lifetimes
        self._settle = settle
        self._clock = clock
        self._stirred = asyncio.Event()
        self._secret: Followed | None = None
        self._configurations: dict[Resource, Followed] = {}
        self._last: Kept | None = None
        """The newest good Secret that was seen."""
        self._signer: Authority | None = None
        self._leaf: Leaf | None = None
        self._trusted: tuple[bytes, float] = (b"", 0.0)
        """The authority that signs, and since when (the loop's time) every webhook configuration has been seen to trust it."""
        self._complaint = ""
        self._backoff = Backoff(Random())
        self._pace = Pace()

    async def run(self) -> None:
        """Keep everything right until cancelled."""
        self._follow()
        try:
            api = (await self._hub.access()).api
            while True:
                self._stirred.clear()
                try:
                    await self._look(api)
                except KubeError as error:
                    self._complain(str(error))
                    await asyncio.sleep(self._backoff.next(longest=longest_wait(error)))
                else:
                    self._backoff.reset()
                    self._complain("")
                    await self._wait()
        finally:
            for followed in self._followed():
                followed.close()

    @property
    def problem(self) -> str:
        """Why the API server cannot talk to us yet; "" when it can."""
        if self._leaf is None:
            return self._complaint or next((one.lost_because for one in self._followed() if one.lost_because), "no certificate yet")
        there = [one for one in self._configurations.values() if one.object is not None]
        if not there:
            return f"there is no webhook configuration named {self._place.webhooks}"
        if not all(trusts(one.object, self._leaf.signer) for one in there):
            return self._complaint or "the webhook configurations do not have our caBundle yet"
        return ""

    def _follow(self) -> None:
        selection = Selection(SECRETS, self._place.namespace, self._place.secret)
        self._secret = Followed(self._hub, selection, self._stirred.set)
        for resource in _WEBHOOKS:
            self._configurations[resource] = Followed(self._hub, Selection(resource, "", self._place.webhooks), self._stirred.set)

    def _followed(self) -> Iterator[Followed]:
        if self._secret is not None:
            yield self._secret
        yield from self._configurations.values()

    async def _wait(self) -> None:
        """Until something changes, or a clock may have come round."""
        due = [self._leaf.renew_at] if self._leaf is not None else []
        due += [self._last.authority.renew_at] if self._last is not None else []
        now = self._clock()
        waits = [max((when - now).total_seconds(), SOON_SECONDS) for when in due]
        if unsettled := self._unsettled():
            waits.append(unsettled)
        try:
            async with asyncio.timeout(min([LOOK_SECONDS, *waits])):
                await self._stirred.wait()
        except TimeoutError:
            return

    # -- one look

    async def _look(self, api: KubeApi) -> None:
        assert self._secret is not None
        if not self._secret.known:
            return
        kept = self._read(self._secret.object)
        self._last = kept or self._last
        if self._last is not None and self._clock() < self._last.authority.expires:
            self._notice_trust(self._last)
            self._sign(self._last)
            await self._spread(api, self._last)
        if kept is None or self._clock() >= kept.authority.renew_at:
            await self._renew(api)
        elif not self._is_owned(self._secret.object):
            await self._adopt(api)

    def _notice_trust(self, kept: Kept) -> None:
        """Since when the authority that signs is trusted everywhere."""
        there = [one.object for one in self._configurations.values() if one.object is not None]
        signer = kept.authority.pem
        if not there or not all(trusts(one, signer) for one in there):
            self._trusted = (b"", 0.0)
        elif self._trusted[0] != signer:
            self._trusted = (signer, asyncio.get_running_loop().time())

    def _unsettled(self) -> float:
        """Seconds until the authority that signs has been trusted for long enough; 0: it has, or is not trusted at all."""
        signer, since = self._trusted
        return max(0.0, since + self._settle - asyncio.get_running_loop().time()) if signer else 0.0

    def _sign(self, kept: Kept) -> None:
        """A leaf where there is none, or the one that there is gets old, or its authority has a successor that all trust."""
        now = self._clock()
        settled = self._trusted[0] == kept.authority.pem and not self._unsettled()
        if self._leaf is None or self._signer is None or settled or now >= self._signer.expires:
            self._signer = kept.authority
        if self._leaf is not None and self._leaf.signer == self._signer.pem and now < self._leaf.renew_at:
            return
        self._leaf = self._signer.issue(self._hosts, now, self._lifetimes.leaf)
        self._use(self._leaf)

    # -- writing

    async def _spread(self, api: KubeApi, kept: Kept) -> None:
        """Put the bundle into every webhook that has another."""
        wrong = {
            resource: one.object
            for resource, one in self._configurations.items()
            if one.object and has_another_bundle(one.object, kept.bundle)
        }
        if not wrong:
            return
        await self._turn()
        newest = self._read(await self._find(api))
        if newest is None or newest.bundle != kept.bundle:
            return  # what we know is old: the watch will tell
        for resource, found in wrong.items():
            bundle = b64encode(kept.bundle).decode("ascii")
            webhooks = [{"name": name, "clientConfig": {"caBundle": bundle}} for name in names_of(found)]
            version = found["metadata"]["resourceVersion"]
            try:
                await api.patch(
                    resource,
                    "",
                    self._place.webhooks,
                    {"metadata": {"resourceVersion": version}, "webhooks": webhooks},
                    strategic=True,
                )
            except ApiError as error:
                if error.status not in {404, 409}:  # somebody changed or deleted it meanwhile: the watch will tell
                    raise
            else:
                log.info("caBundle written into %s %s", _WEBHOOKS[resource], self._place.webhooks, extra={"event": "ca_bundle_written"})

    async def _renew(self, api: KubeApi) -> None:
        """Make a new authority and keep it, unless somebody was quicker."""
        await self._turn()
        found = await self._find(api)
        now = self._clock()
        why = "it gets old"
        try:
            if found is not None and now < self._parse(found).authority.renew_at:
                return
        except Unusable as error:
            why = str(error)
        authority = Authority.make(now, self._lifetimes.authority)
        data = {CERTIFICATE: authority.pem, KEY: authority.key_pem, PREVIOUS: b"".join(still_trusted(self._seen(found), now))}
        if await self._write(api, found, secret_with(self._place.secret, found, data, self._owner())):
            told = f"{self._name}: {why}; a new authority is in it" if found else f"{self._name} has been made"
            log.info("%s", told, extra={"event": "certificate_authority_made"})

    async def _adopt(self, api: KubeApi) -> None:
        """Tie the Secret to the webhook configuration, which came later."""
        await self._turn()
        found = await self._find(api)
        if found is not None and self._read(found) is not None and not self._is_owned(found):
            metadata = {**found["metadata"], "ownerReferences": self._owner()}
            await self._write(api, found, {**found, "apiVersion": "v1", "kind": "Secret", "metadata": metadata})

    async def _write(self, api: KubeApi, found: Json | None, body: Json) -> bool:
        """Make the Secret, or put it in the place of `found`. False: somebody was quicker, and the watch will tell."""
        try:
            if found is None:
                await api.create(SECRETS, self._place.namespace, body)
            else:
                await api.replace(SECRETS, self._place.namespace, self._place.secret, body)
        except ApiError as error:
            if error.status in {404, 409}:
                return False
            if error.status == 422:
                raise Unmendable(f"{self._name} cannot be changed ({error}); delete it") from None
            raise
        return True

    async def _find(self, api: KubeApi) -> Json | None:
        """The Secret as it is now, not as it was told of."""
        listed = await api.list(Selection(SECRETS, self._place.namespace, self._place.secret))
        return listed.items[0] if listed.items else None

    async def _turn(self) -> None:
        """However hard somebody fights us over a bundle, we write no more than once a second."""
        await asyncio.sleep(self._pace.take(asyncio.get_running_loop().time()))

    # -- reading

    @property
    def _name(self) -> str:
        return f"Secret {self._place.namespace}/{self._place.secret}"

    def _read(self, found: Json | None) -> Kept | None:
        """What a Secret holds; None: nothing that can be used."""
        try:
            return None if found is None else self._parse(found)
        except Unusable:
            return None

    def _parse(self, found: Json) -> Kept:
        """Raises Unusable."""
        authority = Authority.parse(value_of(found, CERTIFICATE), value_of(found, KEY), self._clock())
        return Kept(authority, b"".join(authorities(authority.pem + value_or_nothing(found, PREVIOUS))))

    def _is_owned(self, found: Json | None) -> bool:
        """Whether it will go with the webhook configuration, as far as there is one; one that a chart made goes with the chart."""
        metadata = (found or {}).get("metadata", {})
        if not is_made_here(metadata):
            return True
        uids = {owner["uid"] for owner in self._owner()}
        there = metadata.get("ownerReferences") or []
        return uids <= {owner.get("uid") for owner in there}

    def _seen(self, found: Json | None) -> Iterator[bytes]:
        """Where authorities may be that somebody still shows a leaf of."""
        if found is not None:
            yield value_or_nothing(found, CERTIFICATE)
            yield value_or_nothing(found, PREVIOUS)
        if self._last is not None:
            yield self._last.bundle
        for one in self._configurations.values():
            for webhook in webhooks_of(one.object or {}):
                yield bundle_of(webhook)

    def _owner(self) -> list[Json]:
        """The Secret that we made goes when the webhook configuration does: nothing is left after an uninstall."""
        for resource, kind in _WEBHOOKS.items():
            found = self._configurations[resource].object
            if found is not None:
                metadata = found["metadata"]
                version = f"{resource.group}/{resource.version}"
                return [{"apiVersion": version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}]
        return []

    def _complain(self, problem: str) -> None:
        """Each problem once, until it is over."""
        before, self._complaint = self._complaint, problem
        if problem and problem != before:
            log.warning("%s", problem, extra={"event": "certificate_failed"})


class Unmendable(KubeError):
    """The Secret is such that only a person can help."""


def hosts_of(service: str, namespace: str) -> list[str]:
    """The names that an API server may call a Service by, and those of a port-forward."""
    return [
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.cluster.local",
        f"{service}.{namespace}",
        service,
        "localhost",
        "127.0.0.1",
    ]

"""Word to the author of a pod that asked for a sidecar and cannot have one: an Event on what made the pod.

Nothing here holds up a review: refusals wait in a short queue, and the oldest gives way. A Deployment's thousand pods with
one mistake are one Event: its name is made of the owner and the reason, so the API server takes it once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sidecar.injector.review import Json, Review
from sidecar.kube.api import ApiError
from sidecar.kube.event_post import EventPost, cut_note
from sidecar.kube.hub import Hub

log = logging.getLogger("outrider")

CONTROLLER: Final = "outrider.dev/injector"
REASON: Final = "SidecarRefused"
QUEUE: Final = 64
NONE_YET: Final = {"written": 0, "exists": 0, "refused": 0, "dropped": 0}
_RULE: Final = 'the injector needs the ClusterRole rule {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}'
_MAX_NAME: Final = 200


class Refusal(NamedTuple):
    """One pod: its namespace, what the Event regards (an ObjectReference), and why."""

    namespace: str
    regarding: Json
    reason: str


class Refusals:
    """Told of refusals (`hear`); `run` writes until it is cancelled."""

    def __init__(self, hub: Hub, *, instance: str = "") -> None:
        self._hub = hub
        self._instance = (instance or socket.gethostname() or "outrider-injector")[:128]
        self._waiting: deque[Refusal] = deque()
        self._there = asyncio.Event()
        self._post = EventPost(self._say)
        self._said: set[int] = set()

    @property
    def written(self) -> dict[str, int]:
        """Events by what became of them."""
        return {**NONE_YET, **self._post.written}

    def hear(self, review: Review, reason: str) -> None:
        """A pod has been refused. A dry run has no effects, an Event is one."""
        if review.dry_run:
            return
        refusal = Refusal(review.namespace, regarding(review), reason)
        log.info("pod %s has no sidecar: %s", _shown(refusal), reason, extra={"event": "pod_refused"})
        if refusal in self._waiting:
            return
        if len(self._waiting) == QUEUE:
            self._waiting.popleft()
            self._post.written["dropped"] += 1
        self._waiting.append(refusal)
        self._there.set()

    async def run(self) -> None:
        """Write until cancelled."""
        api = (await self._hub.access()).api
        while True:
            await self._there.wait()
            refusal = self._waiting.popleft()
            if not self._waiting:
                self._there.clear()
            await self._post.send(api, refusal.namespace, event_of(refusal, self._instance, datetime.now(UTC)))

    def _say(self, error: ApiError) -> None:
        """Each kind of refusal once."""
        if error.status not in self._said:
            self._said.add(error.status)
            told = f" ({_RULE})" if error.status == 403 else ""
            log.warning("no Event can be written about a pod: %s%s", error, told, extra={"event": "event_refused"})


def regarding(review: Review) -> Json:
    """What made the pod, or the pod itself, which has no uid yet and perhaps no name."""
    metadata = review.object.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    owners = metadata.get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        if isinstance(owner, dict) and owner.get("controller") is True:
            found = {name: str(owner.get(name, "")) for name in ("apiVersion", "kind", "name", "uid")}
            return {**found, "namespace": review.namespace}
    name = _text(review.name) or _text(metadata.get("name")) or _text(metadata.get("generateName")) or "unnamed"
    return {"apiVersion": "v1", "kind": "Pod", "namespace": review.namespace, "name": name}


def event_of(refusal: Refusal, instance: str, now: datetime) -> Json:
    """The Event (events.k8s.io/v1)."""
    about = refusal.regarding
    digest = hashlib.sha256(repr((sorted(about.items()), refusal.reason)).encode("utf-8", "replace")).hexdigest()
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{about['name'][:_MAX_NAME].rstrip('.-')}.{digest[:16]}", "namespace": refusal.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": "InjectSidecar",
        "reason": REASON,
        "type": "Warning",
        "note": cut_note(f"pods start without their sidecar: {refusal.reason}"),
        "regarding": about,
    }


def _shown(refusal: Refusal) -> str:
    about = refusal.regarding
    of = "" if about["kind"] == "Pod" else f"of {about['kind']} "
    return f"{of}{refusal.namespace}/{about['name']}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

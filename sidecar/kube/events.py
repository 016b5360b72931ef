"""Word back to the author of a ConfigMap: an Event when its document was rejected, and one when a better one is active.

A mistake that 500 pods see is one Event: its name is made of the ConfigMap, its version and the reason, so the API
server lets one pod write it and tells the others that it is there (409). They come one after the other because each waits
for a random moment. Nothing here holds up the configuration: reports wait in a short queue, and the oldest gives way.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import socket
from collections import Counter, deque
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sidecar.config.problem import Problem
from sidecar.config.source import News, Offer
from sidecar.config.store import Outcome, Result
from sidecar.kube.api import ApiError
from sidecar.kube.configmap import SOURCE, ConfigMapSource, Reference
from sidecar.kube.event_post import MAX_NOTE, EventPost, cut_note
from sidecar.kube.hub import Hub
from sidecar.kube.objects import Json
from sidecar.model.identity import Identity

log = logging.getLogger("outrider")

CONTROLLER: Final = "outrider.dev/sidecar"
REJECTED: Final = "ConfigRejected"
APPLIED: Final = "ConfigApplied"
SPREAD_SECONDS: Final = 2.0
"""A report waits for a random time within this, so that a fleet does not write all at once."""
QUEUE: Final = 8
_RULE: Final = 'the pod\'s ServiceAccount needs the rule {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}'
_MAX_NAME: Final = 200
_MAX_INSTANCE: Final = 128
_SECRET: Final = re.compile(r'(?<=://)[^/\s"]*?(?:@|(?=\.\.\."))')
"""User and password of a URL, also of one that was cut short. More people may read Events than ConfigMaps."""


class Report(NamedTuple):
    """One thing to tell. `revision` and `uid` are the ConfigMap's; `due` is the loop's time from which on it may be written."""

    reason: str
    note: str
    revision: str
    uid: str
    due: float


class EventWriter:
    """Told of every outcome (`hear`); `run` writes until it is cancelled."""

    def __init__(self, hub: Hub, source: ConfigMapSource, identity: Identity) -> None:
        self._hub = hub
        self._source = source
        self._identity = identity
        self._reports: deque[Report] = deque(maxlen=QUEUE)
        self._there = asyncio.Event()
        self._refused = b""
        """Fingerprint of the document that was rejected last, while none is active that came after it."""
        self._post = EventPost(self._say)
        self._said: set[str] = set()
        """Kinds of failures that the log has been told of."""

    @property
    def written(self) -> Counter[str]:
        """Reports by what became of them: `written exists refused dropped`."""
        return self._post.written

    def hear(self, news: News, outcome: Outcome | None) -> None:
        """See `config.source.Hear`. The same rejected document again, or a good one after a good one, is not worth an Event."""
        if outcome is None or not isinstance(news, Offer) or news.source != SOURCE:
            return
        if outcome.result is Result.REJECTED:
            fingerprint = hashlib.sha256(news.data).digest()
            if fingerprint != self._refused:
                self._refused = fingerprint
                self._queue(REJECTED, rejection_note(self._source.reference.key, outcome.problems), news)
        elif self._refused and outcome.result is not Result.SUPERSEDED:
            self._refused = b""
            self._queue(APPLIED, f"{self._source.reference.key}: the document is valid and in force", news)

    async def run(self) -> None:
        """Write reports until cancelled."""
        loop = asyncio.get_running_loop()
        api = (await self._hub.access()).api
        while True:
            await self._there.wait()
            report = self._reports.popleft()
            if not self._reports:
                self._there.clear()
            await asyncio.sleep(max(0.0, report.due - loop.time()))
            reference = self._source.reference
            await self._post.send(api, reference.namespace, event_of(report, reference, self._identity, datetime.now(UTC)))

    def _queue(self, reason: str, note: str, offer: Offer) -> None:
        if len(self._reports) == QUEUE:
            self.written["dropped"] += 1
        due = asyncio.get_running_loop().time() + random.uniform(0.0, SPREAD_SECONDS)
        self._reports.append(Report(reason, note, offer.revision, offer.uid, due))
        self._there.set()

    def _say(self, error: ApiError) -> None:
        """Each kind of refusal once; the document's way is not affected."""
        kind = str(error.status)
        if kind in self._said:
            return
        self._said.add(kind)
        log.warning(
            "no Event can be written about %s: %s%s",
            self._source.reference,
            error,
            f" ({_RULE} in namespace {self._source.reference.namespace})" if error.status == 403 else "",
            extra={"event": "event_refused", "fields": {"status": error.status}},
        )


def rejection_note(key: str, problems: tuple[Problem, ...]) -> str:
    """The first problem with its place, and how many more: at most `MAX_NOTE` bytes, no credentials."""
    first = problems[0]
    place = f"{first.path}: " if first.path else ""
    more = len(problems) - 1
    rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
    text = f"{key}: line {first.line}, column {first.column}: {place}{first.message}"
    tail = f"{rest}; this version is not in force"
    room = MAX_NOTE - len(tail.encode())
    return cut_note(_SECRET.sub("***@", text), room) + tail


def event_of(report: Report, reference: Reference, identity: Identity, now: datetime) -> Json:
    """The Event (events.k8s.io/v1): it regards the ConfigMap, and names the pod that wrote it."""
    namespace = reference.namespace
    digest = hashlib.sha256(f"{report.uid}/{report.revision}/{reference.key}/{report.reason}".encode()).hexdigest()
    regarding = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": namespace, "name": reference.name}
    body: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{reference.name[:_MAX_NAME].rstrip('.-')}.{digest[:16]}", "namespace": namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": (identity.pod or socket.gethostname() or "outrider")[:_MAX_INSTANCE],
        "action": "LoadConfig",
        "reason": report.reason,
        "type": "Warning" if report.reason == REJECTED else "Normal",
        "note": report.note,
        "regarding": {**regarding, "uid": report.uid, "resourceVersion": report.revision},
    }
    if identity.pod:
        pod = {"apiVersion": "v1", "kind": "Pod", "namespace": identity.namespace or namespace, "name": identity.pod}
        body["related"] = pod | ({"uid": identity.uid} if identity.uid else {})
    return body

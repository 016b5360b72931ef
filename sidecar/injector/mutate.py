"""What a pod's review is answered: the one decision of the webhook. Pure; whatever it finds, the pod may start."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar import __version__
from sidecar.injector.patch import Result, Why, inject, wanted
from sidecar.injector.review import Json, Review, allow
from sidecar.injector.settings import INJECT, Defaults
from sidecar.injector.shape import misshapen

BY: Final = "webhook"
NEVER: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
"""Namespaces whose pods are not touched, whatever their labels and the webhook's selectors say."""
_ENABLED: Final = {INJECT: "enabled"}


class Outcome(StrEnum):
    """`result` of `outrider_injector_requests_total`."""

    INJECTED = "injected"
    SKIPPED = "skipped"
    REFUSED = "refused"
    ERROR = "error"


class Skip(StrEnum):
    """Reasons beside those of `patch.Why`."""

    NOT_WANTED = "not_wanted"
    PROTECTED_NAMESPACE = "protected_namespace"
    NOT_A_NEW_POD = "not_a_new_pod"
    BAD_POD = "bad_pod"


class Verdict(NamedTuple):
    """The answer, and what it is counted as. `refusal`: why the pod cannot have the sidecar that it asked for, for an Event."""

    answer: bytes
    outcome: Outcome
    reason: str
    refusal: str = ""


def mutate(review: Review, defaults: Defaults, *, enabled: bool, home: str) -> Verdict:
    """`enabled`: the pod's namespace is labelled for injection (the review does not say; the webhook's path does). `home`: the injector's namespace."""
    pod = review.object
    if review.what != "pods" or review.operation != "CREATE":
        return _skip(review, Skip.NOT_A_NEW_POD, ["the webhook is to be called for new pods only (check its rules)"])
    if review.namespace in NEVER or review.namespace == home:
        return _skip(review, Skip.PROTECTED_NAMESPACE, [f"pods in namespace {review.namespace} never get a sidecar"] if _asks(pod) else [])
    if problem := misshapen(pod):
        return Verdict(allow(review, (), [f"no sidecar: the pod cannot be read ({problem})"]), Outcome.ERROR, Skip.BAD_POD)
    if not wanted(pod, _ENABLED if enabled else {}):
        opted_out = _labels(pod).get(INJECT) == "false"
        return _skip(review, Why.OPTED_OUT if opted_out else Skip.NOT_WANTED)
    return _verdict(review, inject(pod, defaults, by=BY, version=__version__))


def _verdict(review: Review, result: Result) -> Verdict:
    if result.injected:
        if not result.operations:  # asked once more, after other webhooks had their turn, and all is as it should be
            return _skip(review, Why.ALREADY_INJECTED, result.warnings)
        return Verdict(allow(review, result.operations, result.warnings), Outcome.INJECTED, Why.NONE)
    if result.why in (Why.BAD_ANNOTATION, Why.CONFLICT):
        answer = allow(review, result.operations, [f"no sidecar: {result.reason}"])
        return Verdict(answer, Outcome.REFUSED, result.why, result.reason)
    told = _asks(review.object) and result.why is not Why.ALREADY_INJECTED
    return _skip(review, result.why, [f"no sidecar: {result.reason}"] if told else [])


def _skip(review: Review, reason: str, warnings: Iterable[str] = ()) -> Verdict:
    return Verdict(allow(review, (), warnings), Outcome.SKIPPED, reason)


def _asks(pod: Json) -> bool:
    """Whether the pod itself says that it wants a sidecar, so that its author expects one."""
    return bool(_labels(pod).get(INJECT) == "true")


def _labels(pod: Json) -> Any:
    metadata = pod.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}

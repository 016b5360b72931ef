"""What a failed list or watch means: a word for metrics, whether the resourceVersion is in doubt, how long to stay away, what to tell people."""

from __future__ import annotations

from typing import Final

from sidecar.kube.api import ApiError, BadAnswer, KubeError, Unreachable
from sidecar.kube.backoff import AWAY_SECONDS, MAX_SECONDS
from sidecar.kube.objects import Selection

FOR_PEOPLE_SECONDS: Final = 60.0
"""The longest wait after a failure that lasts until somebody mends it: no right, no such resource."""
MAX_RETRY_AFTER: Final = 300.0
"""What a `Retry-After` may ask for: nobody can silence us for a day."""
WORDS: Final = {401: "unauthorized", 403: "forbidden", 404: "not_found", 410: "expired", 429: "throttled"}
OUTCOMES: Final = frozenset(
    {"ok", "ended", "silent", "short", "unreachable", "bad_answer", "refused", "server_error", "bug", *WORDS.values()}
)
"""Every outcome of a request. `ended`: by the server, as agreed; `silent`: given up by us; `short`: over before it was of use."""
SAYS_NOTHING_OF_THE_VERSION: Final = frozenset({401, 403, 404, 408, 429, 502, 503})


class Bug(KubeError):
    """Not the API server's doing."""


class ShortWatch(Unreachable):
    """A watch ended as soon as it was accepted, with nothing told."""


class SilentWatch(Unreachable):
    """A watch told nothing for longer than a living one does."""


def outcome_of(error: KubeError) -> str:
    """One of OUTCOMES."""
    if isinstance(error, ApiError):
        return WORDS.get(error.status) or ("server_error" if error.status >= 500 else "refused")
    if isinstance(error, ShortWatch):
        return "short"
    if isinstance(error, SilentWatch):
        return "silent"
    if isinstance(error, Bug):
        return "bug"
    return "bad_answer" if isinstance(error, BadAnswer) else "unreachable"


def is_stale(error: KubeError) -> bool:
    """Whether a watch may have failed because of its resourceVersion, so that a list must come first.

    410 (Expired, Gone), 504 ("Too large resource version") and 400 say so. A line that cannot be read, and a 500, would
    fail again at the same place. Losing the connection or the right, and 429, say nothing about it.
    """
    if isinstance(error, ApiError):
        return error.status not in SAYS_NOTHING_OF_THE_VERSION
    return isinstance(error, BadAnswer)


def longest_wait(error: KubeError) -> float:
    """The cap of the back-off after `error`, in seconds."""
    if isinstance(error, ApiError) and error.status in {403, 404}:
        return FOR_PEOPLE_SECONDS
    away = isinstance(error, Unreachable) and not isinstance(error, ShortWatch | SilentWatch)  # those have had an answer
    return AWAY_SECONDS if away else MAX_SECONDS


def asked_to_wait(error: KubeError) -> float:
    """Seconds of `Retry-After`, within reason; 0 when there was none."""
    return min(error.retry_after or 0.0, MAX_RETRY_AFTER) if isinstance(error, ApiError) else 0.0


def explain(error: KubeError, selection: Selection) -> str:
    """For people: what cannot be read, why, and what to do about it."""
    return f"{selection} cannot be read: {error}{_advice(error, selection)}"


def _advice(error: KubeError, selection: Selection) -> str:
    if not isinstance(error, ApiError):
        return ""
    if error.status == 401:
        return "; the token is not accepted: expired, revoked, or of another cluster"
    if error.status == 403:
        return f"; the {'Role' if selection.resource.namespaced else 'ClusterRole'} needs the rule {missing_rule(selection)}"
    if error.status == 404:
        return "; the namespace or the resource does not exist on this API server"
    return ""


def missing_rule(selection: Selection) -> str:
    """The RBAC rule that allows `selection` and nothing more, as it is written in a Role of its namespace, or in a ClusterRole."""
    resource = selection.resource
    names = f"resourceNames: [{selection.name}], " if selection.name else ""
    group = resource.group or '""'
    rule = f"{{apiGroups: [{group}], resources: [{resource.plural}], {names}verbs: [list, watch]}}"
    return f"{rule} in namespace {selection.namespace}" if resource.namespaced else rule

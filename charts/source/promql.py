"""Writes PromQL. Queries are text; what is here keeps selectors, errors, workloads and windows the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from charts.source.catalog import BLAMELESS, FOREIGN, labels_of

NAME_PARTS: Final = "[b-df-hj-np-tv-xz24-9]"
"""The letters of which Kubernetes makes the random ends of names (k8s.io/apimachinery/pkg/util/rand): no vowels, so words do not match."""
POD_END: Final = f"(?:-(?:{NAME_PARTS}{{6,10}}|[0-9]{{8}}))?-(?:{NAME_PARTS}{{5}}|[0-9]{{1,4}})"
"""What a Deployment, DaemonSet, StatefulSet, Job or CronJob puts behind its name to make its pods' names."""
WORKLOAD: Final = "namespace, workload"
_BLAMABLE: Final = '!~"' + "|".join(BLAMELESS) + '"'


class Scope:
    """Which series are looked at: `where` has matchers (`("route", '=~"$route"')`); a selector gets those that its metric has.

    `window` is the range of rates.
    """

    def __init__(self, where: Sequence[tuple[str, str]], window: str) -> None:
        self.where = tuple(where)
        self.window = window

    def of(self, name: str, **matchers: str) -> str:
        """The selector of `outrider_NAME` (or of a foreign metric as it is called)."""
        series = name if name in FOREIGN else f"outrider_{name}"
        known = labels_of(series) | {"namespace", "pod"}
        chosen = [*((label, matcher) for label, matcher in self.where if label in known), *matchers.items()]
        return f"{series}{{{', '.join(label + matcher for label, matcher in chosen)}}}" if chosen else series

    def rate(self, name: str, **matchers: str) -> str:
        """Per second."""
        return f"rate({self.of(name, **matchers)}[{self.window}])"

    def errors(self, **matchers: str) -> str:
        """Rates of failed requests: a 5xx, whoever made it, or a failure behind another status (gRPC, a cut response)."""
        answered = self.rate("requests_total", **matchers, code='=~"5.."')
        other = self.rate("requests_total", **matchers, reason=_BLAMABLE)
        return f"({answered} or {other})"

    def share_of_errors(self, by: str) -> str:
        """Failed of all requests, 0 to 1; absent without requests."""
        return share(total(self.errors(), by), total(self.rate("requests_total"), by))

    def quantile(self, q: float, histogram: str, by: str = "") -> str:
        """Seconds."""
        inner = total(self.rate(f"{histogram}_bucket"), f"{by}, le" if by else "le")
        return f"histogram_quantile({q}, {inner})"


def total(inner: str, by: str = "") -> str:
    """A sum over what is not in `by`."""
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def share(part: str, whole: str) -> str:
    """A ratio that is 0, not absent, where there is a whole without the part."""
    return f"({part} or 0 * {whole}) / {whole}"


def workload(inner: str) -> str:
    """`inner` with a label `workload` that is read from the pod's name, the whole name where no pattern fits."""
    return f'label_replace({inner}, "workload", "$1$2", "pod", "(?:(.+?){POD_END}|(.+))")'


def grown(selector: str, window: str) -> str:
    """By how much a rare counter grew. One that is born with its first event has no zero to grow from: its value counts."""
    return f"({selector} unless {selector} offset {window} or increase({selector}[{window}]))"


def target(inner: str) -> str:
    """Only the targets that are sidecars: `inner` may be a metric that every program has."""
    return f"{inner} and on (job, instance) outrider_build_info"

"""Call-backs that do not keep their owner alive: an upstream that is gone is freed at once, without the cycle collector."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

from sidecar.errors import UpstreamError
from sidecar.model.reason import Phase, Reason

P = ParamSpec("P")
R = TypeVar("R")


def weakly(method: Callable[P, R]) -> Callable[P, R]:
    """`method`, a bound one, without a reference to its object. The call raises UpstreamError when that has gone."""
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        alive = reference()
        if alive is None:
            raise UpstreamError(Reason.DESTINATION_UNAVAILABLE, "the upstream has been removed", phase=Phase.POOL)
        return alive(*args, **kwargs)

    return call

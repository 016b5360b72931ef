"""Routers of a configuration that other processes run, made when somebody asks for an explanation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from sidecar.model.snapshot import Snapshot
from sidecar.policy.router import Router


class LazyRouters(Mapping[str, Router[Any]]):
    """By listener. Thousands of rules take a while: explanations ask in a thread."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @cached_property
    def _routers(self) -> dict[str, Router[Any]]:
        from sidecar.proxy.explain import offline_routers  # noqa: PLC0415 - only explanations need it

        return offline_routers(self._snapshot)

    def __getitem__(self, listener: str) -> Router[Any]:
        return self._routers[listener]

    def __iter__(self) -> Iterator[str]:
        return iter(self._routers)

    def __len__(self) -> int:
        return len(self._routers)

"""Hooks for an aiohttp session that may live longer than a configuration: tracing is looked for at each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from sidecar.observe.tracing.aiohttp_client import ClientSpans

WATCH: Final = "watch"
"""Query parameter of the Kubernetes API: a response that goes on for minutes is no request worth a span."""


def trace_config(current: Callable[[], Awaitable[ClientSpans | None]]) -> aiohttp.TraceConfig:
    """A TraceConfig for the life of a session: asks `current` at the start of each request what is on."""
    config = aiohttp.TraceConfig()

    async def started(session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestStartParams) -> None:
        context.hooks = context.inner = None
        spans = None if WATCH in params.url.query else await current()
        if spans is not None:
            context.hooks = spans.config
            context.inner = context.hooks.trace_config_ctx(trace_request_ctx=context.trace_request_ctx)
            await context.hooks.on_request_start.send(session, context.inner, params)

    async def ended(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        if context.hooks is not None:
            await context.hooks.on_request_end.send(session, context.inner, params)

    async def failed(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        if context.hooks is not None:
            await context.hooks.on_request_exception.send(session, context.inner, params)

    config.on_request_start.append(started)
    config.on_request_end.append(ended)
    config.on_request_exception.append(failed)
    return config

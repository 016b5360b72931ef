"""The webhooks' HTTP side: one aiohttp application over a `Webhooks`.

    POST /inject/namespace   pods of namespaces that are labelled for injection
    POST /inject/pod         pods that are labelled themselves, in other namespaces
    POST /validate           ConfigMaps with a document

Two paths for pods, because a review does not tell the namespace's labels: which of the webhook's two entries matched, does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web

from sidecar.config.load import KEY
from sidecar.injector.documents import Validator
from sidecar.injector.mutate import Outcome, mutate
from sidecar.injector.refusals import Refusals
from sidecar.injector.review import BadReview, Review, allow, parse
from sidecar.injector.settings import Defaults
from sidecar.injector.tally import Failure, Tally, Validation

log = logging.getLogger("outrider")

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of a review. API servers take objects of 3 MiB; a review may hold one twice."""
MAX_WAITING: Final = 64 * 1024 * 1024
"""Bytes of reviews that are held at the same time."""
DEFAULT_TIMEOUT: Final = 10.0
"""Of a webhook that names none, as API servers count."""
SHARE: Final = 0.8
"""Of the webhook's timeout: what is answered later finds nobody listening."""
LINGER_SECONDS: Final = 2.0
"""For who is still sending a body that is too large."""
_TIMEOUT: Final = re.compile(r"([0-9]{1,4})s")


class Refuse(Exception):
    """There is no review to answer: a plain HTTP status instead. The text is for whoever set up the webhook."""

    def __init__(self, status: int, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.failure = failure


class Webhooks:
    """What the application is made of. `home`: the injector's own namespace; `draining`: answers ask for another connection."""

    def __init__(
        self, *, defaults: Callable[[], Defaults | None], home: str, tally: Tally, refusals: Refusals, draining: Callable[[], bool]
    ) -> None:
        self._defaults = defaults
        self._home = home
        self._tally = tally
        self._refusals = refusals
        self._draining = draining
        self._validator = Validator()
        self._held = 0

    async def inject(self, request: web.Request, *, enabled: bool) -> web.Response:
        """`POST /inject/...`. Always yes: whatever happens to us, the pod may start."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            review = await self._read(request, began + seconds_of(request))
        except Refuse as error:
            self._tally.injected(Outcome.ERROR, error.failure, loop.time() - began)
            return await self._plain(request, error)
        answer, outcome, reason = self._inject(review, enabled=enabled)
        self._tally.injected(outcome, reason, loop.time() - began)
        return self._json(answer)

    def _inject(self, review: Review, *, enabled: bool) -> tuple[bytes, Outcome, str]:
        defaults = self._defaults()
        if defaults is None:
            return allow(review, (), ["no sidecar: the injector has no valid defaults"]), Outcome.ERROR, Failure.NO_DEFAULTS
        try:
            verdict = mutate(review, defaults, enabled=enabled, home=self._home)
            if verdict.refusal:
                self._refusals.hear(review, verdict.refusal)
        except Exception:  # a bug of ours must not keep a pod from starting
            log.exception("a review failed", extra={"event": "internal_error"})
            return allow(review, (), ["no sidecar: the injector failed, see its log"]), Outcome.ERROR, Failure.INTERNAL
        return verdict.answer, verdict.outcome, verdict.reason

    async def validate(self, request: web.Request) -> web.Response:
        """`POST /validate`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = began + seconds_of(request)
        try:
            review = await self._read(request, ends)
        except Refuse as error:
            self._tally.validated(Validation.UNKNOWN, loop.time() - began)
            return await self._plain(request, error)
        defaults = self._defaults()
        key = KEY if defaults is None else defaults.configmap_key
        try:
            answer, result = await self._validator.answer(review, key, ends - loop.time())
        except Exception:
            log.exception("a review failed", extra={"event": "internal_error"})
            answer, result = allow(review, (), ["the document has not been checked: the injector failed, see its log"]), Validation.UNKNOWN
        self._tally.validated(result, loop.time() - began)
        return self._json(answer)

    async def _read(self, request: web.Request, ends: float) -> Review:
        """Raises Refuse."""
        if (request.content_length or 0) > MAX_BODY:
            raise Refuse(413, Failure.TOO_LARGE, f"a review has at most {MAX_BODY} bytes")
        try:
            async with asyncio.timeout_at(ends):
                return parse(await self._body(request))
        except TimeoutError:
            raise Refuse(408, Failure.TIMEOUT, "the review has not come in time") from None
        except BadReview as error:
            raise Refuse(400, Failure.BAD_REQUEST, str(error)) from None

    async def _body(self, request: web.Request) -> bytearray:
        """What is held counts from when it comes, so that those who promise much and send little take no room."""
        body = bytearray()
        try:
            while chunk := await request.content.readany():
                body += chunk
                self._held += len(chunk)
                if len(body) > MAX_BODY:
                    raise Refuse(413, Failure.TOO_LARGE, f"a review has at most {MAX_BODY} bytes")
                if self._held > MAX_WAITING:
                    raise Refuse(503, Failure.OVERLOADED, "too many reviews at the same time")
        except (web.RequestPayloadError, ValueError, OSError):
            raise Refuse(400, Failure.BAD_REQUEST, "the body broke off") from None
        finally:
            self._held -= len(body)
        return body

    def _json(self, answer: bytes) -> web.Response:
        return self._closing(web.Response(body=answer, content_type="application/json"))

    async def _plain(self, request: web.Request, error: Refuse) -> web.Response:
        if error.failure in (Failure.TOO_LARGE, Failure.OVERLOADED):
            await _discard(request)
        response = self._closing(web.Response(status=error.status, text=f"{error}\n"))
        if error.failure is not Failure.BAD_REQUEST:
            response.force_close()
        return response

    def _closing(self, response: web.Response) -> web.Response:
        if self._draining():
            response.force_close()
        return response


async def _discard(request: web.Request) -> None:
    """Take what is still being sent: an answer in the middle of it would be lost with the connection."""
    with contextlib.suppress(TimeoutError, web.RequestPayloadError, ValueError, OSError):
        async with asyncio.timeout(LINGER_SECONDS):
            while await request.content.readany():
                pass


def make_app(webhooks: Webhooks) -> web.Application:
    """Serve it with `access_log=None`."""
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/inject/namespace", partial(webhooks.inject, enabled=True))
    app.router.add_post("/inject/pod", partial(webhooks.inject, enabled=False))
    app.router.add_post("/validate", webhooks.validate)
    return app


def seconds_of(request: web.Request) -> float:
    """The time for an answer: most of the webhook's `timeoutSeconds`, which API servers send along as `?timeout=5s`."""
    said = _TIMEOUT.fullmatch(request.query.get("timeout", ""))
    timeout = float(said[1]) if said else DEFAULT_TIMEOUT
    return SHARE * min(max(timeout, 1.0), 30.0)

"""The life of a request: admit -> check -> route -> filter -> prepare -> dispatch -> respond -> relay -> record.

Only dispatch and relay wait. A stage ends the exchange early by returning a Reply or raising a ProxyError;
`reply_for` alone turns an error into a response, and `_record` runs exactly once.

Nothing is awaited while an exception is handled, here and wherever hatch_build.py compiles: a compiled coroutine that
stops there leaves the exception behind as the one that the whole thread handles, and every later one would drag it along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, Final

from sidecar.errors import BadMessage, PeerGone, ProxyError
from sidecar.http1.connection import SMALL_READ, set_bulk_read
from sidecar.http1.server_connection import ServerConnection
from sidecar.http1.stream import RawStream
from sidecar.model.exchange import Exchange, State
from sidecar.model.head import RequestHead
from sidecar.model.reason import Reason
from sidecar.observe.observer import Observer
from sidecar.policy.overload import Overload
from sidecar.proxy.admit import admit, check, new_id
from sidecar.proxy.body import Kept
from sidecar.proxy.dispatch import dispatch, end_attempt
from sidecar.proxy.flight import Flight
from sidecar.proxy.mirror import Mirrors
from sidecar.proxy.plan import Plan
from sidecar.proxy.prepare import prepare, redirect
from sidecar.proxy.relay import relay, relay_whole
from sidecar.proxy.reply import Reply, reply_for
from sidecar.proxy.respond import response_head
from sidecar.proxy.route import Upstreams, find_destination, find_upstream
from sidecar.proxy.states import move
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.proxy.tunnel import Meter, tunnel
from sidecar.upstream.transport import InboundResponse

log = logging.getLogger("outrider")
_SWITCHING: Final = 101
_SENDING: Final = State.SENDING
_RESPONDING: Final = State.RESPONDING
_DONE: Final = State.DONE
_INCOMPLETE: Final = Reason.HTTP_RESPONSE_INCOMPLETE


class Proxy:
    """All traffic of the process. `plan` is swapped at a reload; an exchange keeps the one it began with."""

    def __init__(
        self, plan: Plan, upstreams: Upstreams, observer: Observer, timekeeper: Timekeeper, overload: Overload | None = None
    ) -> None:
        self.plan = plan
        self.upstreams = upstreams
        self.observer = observer
        self.timekeeper = timekeeper
        self.overload = Overload() if overload is None else overload
        self.kept = Kept()
        self.mirrors = Mirrors()

    def handler(self, listener: str) -> Callable[[ServerConnection], Coroutine[Any, Any, None]]:
        """What runs for each connection of the listener of that name."""
        return partial(self._serve, listener)  # no coroutine around it: each one costs at each wake-up

    async def _serve(self, listener: str, connection: ServerConnection) -> None:
        refused: ProxyError | None = None
        while True:
            try:
                head = await connection.next_request()
            except ProxyError as error:
                refused = error
                break
            if head is None or not await self._exchange(listener, connection, head):
                return
            del head  # an idle connection holds on to nothing of its last request
        if refused is not None:
            await self._refuse(listener, connection, refused)

    async def _exchange(self, listener: str, connection: ServerConnection, head: RequestHead) -> bool:
        """One request and its response. False: nothing more is read from this connection."""
        plan = self.plan
        flight = admit(connection, head, plan.listeners[listener], plan.snapshot.revision)
        self._begin(flight)
        response: InboundResponse | None = None
        failure: ProxyError | PeerGone | None = None
        try:
            try:
                if len(self.timekeeper.running) > self.overload.roomy:
                    self._admit_one_more(connection)
                reply = check(flight)
                if reply is None:
                    if not find_upstream(flight):
                        await find_destination(flight, plan, self.upstreams)
                    reply = redirect(flight)
                if reply is None:
                    flight.request = prepare(flight, self.kept)
                    move(flight.exchange, _SENDING)
                    response = await dispatch(flight, self.observer)
                    flight.exchange.status = response.head.status
                    move(flight.exchange, _RESPONDING)
                    parts = response_head(flight, response.head)
                    if response.head.status == _SWITCHING or head.method == b"CONNECT":
                        await self._tunnel(flight, response, parts)
                    elif not relay_whole(flight, parts, response.body):
                        await relay(flight, parts, response.body)
                    move(flight.exchange, _DONE)
                else:
                    await self._reply(flight, reply)
            except asyncio.CancelledError:
                failure = self._interruption(flight)
                if failure is None:
                    raise
            except (ProxyError, PeerGone) as error:
                failure = error
            except Exception:  # a bug of ours costs one exchange, not the connection's neighbours
                log.exception("exchange failed", extra={"event": "internal_error", "request_id": flight.exchange.request_id.decode()})
                self._end_broken_attempt(flight, response)
                failure = ProxyError(Reason.PROXY_INTERNAL_ERROR, reusable=False)
            if flight.delivered and isinstance(failure, PeerGone):
                self._satisfied(flight)
            elif failure is not None:
                await self._fail(flight, failure)
        finally:
            failure = None  # its traceback holds this frame
            self._record(flight, response)
        if flight.keep_alive and connection.body is None and not connection.closed:
            return True
        return await self._may_go_on(flight)

    def _admit_one_more(self, connection: ServerConnection) -> None:
        """Memory would not be enough if the peers of all that is in flight were slow. Raises ProxyError: it is refused."""
        self.overload.admit(len(self.timekeeper.running))
        if self.overload.tight:
            set_bulk_read(SMALL_READ)
            connection.hold_little()

    # -- begin and end

    def _end_broken_attempt(self, flight: Flight, response: InboundResponse | None) -> None:
        """A bug interrupted an attempt: its endpoint must not be taken for busy ever after."""
        attempts = flight.exchange.attempts
        if response is None and attempts and not attempts[-1].ended_at:
            end_attempt(flight, attempts[-1], Reason.PROXY_INTERNAL_ERROR.value, failed=False)
            self.observer.attempt_finished(flight.exchange, attempts[-1])

    def _begin(self, flight: Flight) -> None:
        self.observer.exchange_started(flight.exchange)
        self.timekeeper.enter(flight)
        flight.connection.watch()

    def _record(self, flight: Flight, response: InboundResponse | None) -> None:
        """The end, whatever it was: connections go back, observers hear of it. Exactly once per exchange."""
        exchange = flight.exchange
        complete = exchange.state is _DONE
        if response is not None:
            attempt = exchange.attempts[-1]
            if complete:
                response.release()
            else:
                response.abort()
            outcome = "success" if complete or exchange.reason is None else exchange.reason.value
            attempt.clock = exchange.clock
            end_attempt(flight, attempt, outcome, failed=exchange.reason is _INCOMPLETE)
            self.observer.attempt_finished(exchange, attempt)
        if flight.rule is not None and flight.rule.payload.mirrors:
            self.mirrors.send(flight, self.overload.roomy - len(self.timekeeper.running))
        if flight.body is not None:
            flight.body.forget()
        flight.connection.unwatch()
        self.timekeeper.leave(flight)
        exchange.ended_at = monotonic()
        self.observer.exchange_finished(exchange)

    async def _may_go_on(self, flight: Flight) -> bool:
        connection = flight.connection
        body = connection.body
        while body is not None and not body.done and body.error is None and body.ready():
            try:
                await body.read()
            except (ProxyError, PeerGone):
                break
        unread = body is not None and not body.done
        if flight.keep_alive and not unread and not connection.closed:
            return True
        if flight.exchange.state is not State.ABORTED:
            await connection.linger()
        return False

    # -- other ends than a relayed response

    def _satisfied(self, flight: Flight) -> None:
        """The client left with its whole response, while an HTTP/2 upstream still owed the frame that ends the stream (RFC 9113 section 8.1)."""
        flight.keep_alive = False
        move(flight.exchange, _DONE)

    async def _fail(self, flight: Flight, error: ProxyError | PeerGone) -> None:
        exchange = flight.exchange
        if isinstance(error, PeerGone):
            exchange.detail = str(error)
            self._aborted(flight, Reason.CLIENT_CLOSED)
            return
        exchange.clock, exchange.detail = error.clock, error.detail
        if isinstance(error, BadMessage) and error.rejection is not None:
            self.observer.message_rejected(exchange.listener.name, error.rejection)
        if flight.committed or exchange.state is State.RESPONDING:  # the same outcome, however its bytes were cut into segments
            self._aborted(flight, error.reason)
            return
        exchange.reason = error.reason
        if not error.reusable or exchange.head.method == b"CONNECT":  # RFC 9931: what follows a refused CONNECT is not parsed
            flight.keep_alive = False
        await self._reply(flight, reply_for(error, exchange))

    def _interruption(self, flight: Flight) -> ProxyError | PeerGone | None:
        """What cancelled us, in terms of HTTP. None: we are really to stop, and the exchange has been cut."""
        interruption = flight.interruption()
        if interruption is None:
            self._aborted(flight, Reason.DRAINING)
        return interruption

    def _aborted(self, flight: Flight, reason: Reason) -> None:
        """The client must not take what it got for a whole response (RFC 9112 section 8)."""
        exchange = flight.exchange
        exchange.reason = reason
        if reason is Reason.CLIENT_CLOSED and not flight.committed:
            exchange.status = 499
        flight.keep_alive = False
        flight.connection.abort()
        move(exchange, State.ABORTED)

    async def _reply(self, flight: Flight, reply: Reply) -> None:
        exchange, connection = flight.exchange, flight.connection
        exchange.status = reply.status
        unread = connection.body is not None and not connection.body.done
        flight.keep_alive = flight.keep_alive and not connection.draining and not unread
        wire = reply.wire(head_only=exchange.head.method == b"HEAD", close=not flight.keep_alive)
        move(exchange, State.REPLIED)
        flight.committed = True
        if exchange.head.method != b"HEAD":
            exchange.bytes_out += len(reply.body)
        connection.send(wire)
        if connection.drained is not None:
            await self._drain_reply(flight)

    async def _drain_reply(self, flight: Flight) -> None:
        """A client that reads nothing holds us up for `streamIdle`, then it is cut; no other clock matters any more."""
        deadlines = flight.deadlines
        deadlines.become_reply(monotonic(), self.plan.snapshot.default_timeouts.stream_idle)
        interruption: ProxyError | PeerGone | None = None
        try:
            await flight.connection.drain()
        except asyncio.CancelledError:
            interruption = self._interruption(flight)
            if interruption is None:
                raise
        if interruption is not None:
            await self._fail(flight, interruption)

    async def _refuse(self, listener: str, connection: ServerConnection, error: ProxyError) -> None:
        """No head came, or one that breaks a rule: answered, closed, and nothing more of it is parsed."""
        model = self.plan.listeners[listener].listener
        exchange = Exchange(model, RequestHead(b"", b"", 1, []), connection.peer, monotonic())
        exchange.request_id = new_id()
        exchange.reason, exchange.clock, exchange.detail, exchange.status = error.reason, error.clock, error.detail, error.status
        self.observer.exchange_started(exchange)
        if error.rejection is not None:
            self.observer.message_rejected(listener, error.rejection)
        connection.send(reply_for(error, exchange).wire(head_only=False, close=True))
        move(exchange, State.REPLIED)
        exchange.ended_at = monotonic()
        self.observer.exchange_finished(exchange)
        await connection.linger()

    async def _tunnel(self, flight: Flight, response: InboundResponse, parts: list[bytes]) -> None:
        exchange, connection, deadlines = flight.exchange, flight.connection, flight.deadlines
        token = response.head.upgrade.lower()
        exchange.tunnel = "connect" if exchange.head.method == b"CONNECT" else "websocket" if token == b"websocket" else "upgrade"
        flight.committed, flight.keep_alive = True, False
        connection.send(b"".join(parts))
        connection.unwatch()
        deadlines.become_tunnel(monotonic(), deadlines.timeouts.tunnel_idle)
        self.timekeeper.become_tunnel(flight)
        self.observer.tunnel_started(exchange)
        meter = Meter(exchange, deadlines)
        upstream = response.tunnel()
        connection.on_lost = upstream.abort
        try:
            await tunnel(RawStream(connection), upstream, meter.sent, meter.received)
        except PeerGone as error:
            exchange.detail = str(error)

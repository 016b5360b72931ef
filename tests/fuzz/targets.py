"""What is fuzzed. Each target states its invariant in its docstring's first sentence and raises AssertionError where it does not hold."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, Final

from multidict import CIMultiDict, CIMultiDictProxy

from sidecar.admin.guard import known_host
from sidecar.config.effective import effective
from sidecar.config.load import Loaded, Problems, load
from sidecar.errors import BadMessage, PeerGone, ProxyError, UsageError
from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.head import Field, RequestHead
from sidecar.model.snapshot import (
    AllowEntry,
    Backend,
    Forwarded,
    Listener,
    Match,
    Mode,
    PathMatch,
    PathType,
    Route,
    Snapshot,
    Target,
    Upstream,
    UrlRewrite,
    ValueMatch,
)
from sidecar.policy.allow import HostDecision, check_address, decide_host
from sidecar.policy.deadline_header import parse_timeout, render_timeout
from sidecar.policy.filters import rewrite_target
from sidecar.policy.router import Router
from sidecar.protocol import via
from sidecar.protocol.chunked import ChunkedDecoder
from sidecar.protocol.forwarded import ForwardedPolicy
from sidecar.protocol.head import HeadLimits, looks_wrong, parse_request_head, parse_response_head, response_looks_wrong
from sidecar.protocol.hop_by_hop import sift
from sidecar.protocol.target import normalize_path, split_authority, valid_host
from sidecar.protocol.trace_context import clean_tracestate, parse_traceparent
from sidecar.proxy.explain import Scene, explain, offline_routers, question

LIMITS: Final = HeadLimits(32 * 1024, 128, 8 * 1024)
_no_line_end: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch
"""What may stand in a field's value."""


def request_head(data: bytes) -> None:
    """Any bytes are a head or a BadMessage, and an accepted head, written again, is read as the same one."""
    head = _parsed(data)
    if head is None:
        return
    for cut in range(0, len(data), max(len(data) // 16, 1)):
        assert looks_wrong(data[:cut]) is None or cut == len(data), "a beginning of a good head is refused"
    target = head.path if head.method != b"CONNECT" else head.target
    fields = head.fields if any(lower == b"host" for _, lower, _ in head.fields) else [(b"Host", b"host", b"a"), *head.fields]
    lines = [b"%b: %b\r\n" % (name, value) for name, _, value in fields]
    again = _parsed(b"".join([head.method, b" ", target, b" HTTP/1.1\r\n", *lines, b"\r\n"]))
    assert again is not None, "what we accepted is refused when we send it"
    assert (again.method, again.length, again.fields) == (head.method, head.length, fields), "the next hop reads another message"
    assert head.method == b"CONNECT" or again.path == head.path, "the next hop reads another path"


def _parsed(data: bytes) -> RequestHead | None:
    try:
        return parse_request_head(data, LIMITS)
    except BadMessage:
        return None


def response_head(data: bytes) -> None:
    """Any bytes are a response head or a BadMessage, and no value of an accepted one can end its line."""
    try:
        head = parse_response_head(data, b"GET")
    except BadMessage:
        return
    assert 100 <= head.status <= 999
    assert all(_no_line_end(value) and _no_line_end(name) and name for name, _, value in head.fields)
    assert _no_line_end(head.reason)
    for cut in range(0, len(data), max(len(data) // 16, 1)):
        assert response_looks_wrong(data[:cut]) is None, "a beginning of a good head is refused"


def chunked(data: bytes) -> None:
    """A chunked body is the same payload, or refused, however it is cut. The first byte says where."""
    if not data:
        return
    size, data = data[0] + 1, data[1:]
    whole = _decoded([data])
    assert whole == _decoded([data[at : at + size] for at in range(0, len(data), size)]), "the cuts decide what it means"
    assert whole == _decoded([data[at : at + 1] for at in range(len(data))]), "the cuts decide what it means"


def _decoded(pieces: list[bytes]) -> tuple[bytes, int, bool] | None:
    """Payload, bytes used and whether the body is complete; None when it is refused."""
    decoder, payload, used = ChunkedDecoder(), b"", 0
    try:
        for piece in pieces:
            if decoder.done:
                break
            out, taken = decoder.decode(piece)
            payload, used = payload + out, used + taken
    except BadMessage:
        return None
    return payload, used, decoder.done


class _Transport(asyncio.Transport):
    """Takes everything, says nothing: the connection under test is fed by hand."""

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def write(self, _data: bytes | bytearray | memoryview) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


def connection(data: bytes) -> None:
    """A client's connection yields the same requests and the same refusal however its bytes come. The first byte says how."""
    if not data:
        return
    size, data = data[0] + 1, data[1:]
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    with asyncio.Runner() as runner:
        assert runner.run(_served([data])) == runner.run(_served(cut)), "the cuts decide what is served"


async def _served(pieces: list[bytes]) -> list[object]:
    """What a connection's handler reads of these pieces: each request, then whether what follows was refused.

    Which rule it is that refuses depends on the cuts, where two are broken: what has come is judged, the rest not waited for.
    """
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        try:
            while (head := await connection.next_request()) is not None:
                body = b""
                while connection.body is not None and (piece := await connection.body.read()):
                    body += piece
                trailers = list(connection.body.trailers) if connection.body is not None else []
                seen.append((head.method, head.path, head.fields, body, trailers))
        except ProxyError:
            seen.append("refused")
        except PeerGone:
            seen.append("left")

    loop = asyncio.get_running_loop()
    idle = IdleQueue(loop, 0.0)
    owner = Owner("fuzz", ServerSettings(LIMITS, 0.0, 0, idle), handler, lambda _: None, lambda _: None)
    served = ServerConnection(owner)
    served.connection_made(_Transport())
    for piece in pieces:
        served.data_received(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    served.eof_received()
    served.closed = True
    served.wake()
    await served.task
    idle.close()
    return seen


def _match(path: str, kind: PathType = PathType.PREFIX, **more: Any) -> tuple[Match, ...]:
    return (Match(path=PathMatch(type=kind, value=path), **more),)


_ROUTES: Final = [
    Route(name="exact", index=0, matches=_match("/a/b", PathType.EXACT)),
    Route(name="a", index=1, matches=_match("/a")),
    Route(name="a-b", index=2, matches=_match("/a/b/c", method="POST")),
    Route(name="regex", index=3, matches=_match("/(r|s)+", PathType.REGEX)),
    Route(name="host", index=4, hostnames=("h.test",), matches=_match("/")),
    Route(name="wild", index=5, hostnames=("*.test",), matches=_match("/w")),
    Route(name="header", index=6, matches=_match("/", headers=(ValueMatch(name="x", value="1"),))),
    Route(name="query", index=7, matches=_match("/q", query_params=(ValueMatch(name="k", value="v"),))),
]
_ROUTER: Final = Router([(route, route.name) for route in _ROUTES], "any")


def router(data: bytes) -> None:
    """A path and its normal form are routed alike, and a prefix rule gets no path outside of its prefix. HOST LF PATH LF HEADER."""
    host, _, rest = data.partition(b"\n")
    path, _, value = rest.partition(b"\n")
    path = b"/" + path
    fields: list[Field] = [(b"X", b"x", value)] if value else []
    normal = normalize_path(path)
    assert normalize_path(normal) == normal, "normalising again changes it"
    assert not {b".", b".."} & set(normal.split(b"/")), "dot segments are left"
    rule = _ROUTER.match(host, path, b"GET", fields)
    query = path.partition(b"?")[1] + path.partition(b"?")[2]
    again = _ROUTER.match(host, normal + query, b"GET", fields)
    assert rule is again, "two spellings of a path are routed differently"
    if rule is not None and rule.match.path.type is PathType.PREFIX:
        prefix = rule.match.path.value.encode().rstrip(b"/")
        assert (normal + b"/").startswith(prefix + b"/"), "a path outside of the prefix"
        rewritten = rewrite_target(UrlRewrite(replace_prefix_match="/new"), path, rule.prefix)
        assert (normalize_path(rewritten) + b"/").startswith(b"/new/"), "a rewritten path leaves its new prefix"


def document(data: bytes) -> None:
    """Any bytes are a document or problems with a place; a document whose defaults are filled in is a document again."""
    outcome = load(data)
    if isinstance(outcome, Problems):
        assert outcome.problems
        for problem in outcome.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.render("f").isprintable(), "a problem can forge a line"
        return
    assert isinstance(outcome, Loaded)
    full = json.dumps(effective(outcome.document))
    if "***" not in full:
        assert isinstance(load(full.encode()), Loaded), "a document with its defaults filled in is refused"


_BELIEVED: Final = ForwardedPolicy(Forwarded.APPEND, (ip_network("10.0.0.0/8"),)).for_peer(ip_address("10.0.0.1"))
_DISTRUSTED: Final = ForwardedPolicy(Forwarded.APPEND, ()).for_peer(ip_address("10.0.0.1"))


def forwarded(data: bytes) -> None:
    """What a peer says about itself never ends a line, our address is last, and of who is not believed nothing is passed on.

    Field lines, each NAME: VALUE, separated by LF.
    """
    fields = [
        (name, name.lower(), value) for name, _, value in (line.partition(b": ") for line in data.split(b"\n")) if _no_line_end(value)
    ]
    kept, found = sift(fields, (), _BELIEVED.taken)
    lines = dict(_BELIEVED.apply(found, b"10.0.0.1", b"h"))
    assert all(_no_line_end(value) for value in lines.values())
    assert lines[b"X-Forwarded-For"].endswith(b"10.0.0.1"), "our peer is not in the chain"
    assert not {lower for _, lower, _ in kept} & _BELIEVED.taken
    _, found = sift(fields, (), _DISTRUSTED.taken)
    assert dict(_DISTRUSTED.apply(found, b"10.0.0.1", b"h"))[b"X-Forwarded-For"] == b"10.0.0.1", "a stranger's word is passed on"
    joined = via.append(found.get(b"via"))
    assert via.own_entries(joined) >= 1, "our own entry is not recognised"


def deadline(data: bytes) -> None:
    """A deadline header is nothing or a time that, written again, is never longer than what came."""
    seconds = parse_timeout(data)
    if seconds is None:
        return
    assert 0 <= seconds <= 10**10
    again = parse_timeout(render_timeout(seconds))
    assert again is not None
    assert again <= max(seconds, 0.001)


def trace(data: bytes) -> None:
    """A trace context that is taken is valid when it is written again, and a state that travels on stays as it is."""
    parent, _, state = data.partition(b"\n")
    taken = parse_traceparent(parent, state)
    if taken is None:
        return
    again = parse_traceparent(b"00-%b-%b-%02x" % (taken.trace, taken.span, taken.flags), taken.state)
    assert again == taken
    assert len(taken.state) <= 4096
    assert _no_line_end(taken.state)
    assert clean_tracestate(taken.state) == taken.state


_ALLOW: Final = (
    AllowEntry(host="*", network=None, ports=None),
    AllowEntry(host=None, network=ip_network("0.0.0.0/0"), ports=None),
    AllowEntry(host=None, network=ip_network("::/0"), ports=None),
)


def destination(data: bytes) -> None:
    """No spelling of an address that needs naming is allowed by a list that names everything else."""
    if not valid_host(data):
        return  # no request gets that far
    host = split_authority(data, 80)[0].decode("ascii")
    decision = decide_host(_ALLOW, host, 80)
    if decision is HostDecision.REFUSED:
        return
    try:
        address = ip_address(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        return
    allowed = check_address(_ALLOW, address, 80, named=decision is HostDecision.NAMED)
    assert not allowed or address.is_global or address in ip_network("192.88.99.0/24"), "a resolver takes it for a special address"


def admin_host(data: bytes) -> None:
    """The admin surface serves loopback names and the address that it is bound to, and no name that somebody could rebind."""
    text = data.decode("latin-1")
    if not known_host(CIMultiDictProxy(CIMultiDict({"Host": text})), "10.1.2.3"):
        return
    host = text.strip().lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    assert host == "localhost" or ip_address(host).is_loopback or host == "10.1.2.3"


_SNAPSHOT: Final = Snapshot(
    revision="1",
    hash="",
    listeners=(
        Listener(name="in", port=1, bind="127.0.0.1", mode=Mode.REVERSE),
        Listener(name="out", port=2, bind="127.0.0.1", mode=Mode.FORWARD, allow=_ALLOW),
    ),
    upstreams={"app": Upstream(name="app", targets=(Target(host="127.0.0.1", port=3),))},
    routes=(Route(name="r", index=0, matches=_match("/a"), backends=(Backend(name="app"),)),),
)
_SCENE: Final = Scene(snapshot=_SNAPSHOT, routers=offline_routers(_SNAPSHOT), origin=lambda _: "built-in", source="fuzz")


def admin_explain(data: bytes) -> None:
    """A question of the admin surface is answered or refused with one printable line, whatever it says. METHOD LF URL LF HEADER LF LISTENER."""
    method, url, header, listener, *_ = [*data.decode("utf-8", "replace").split("\n"), "", "", "", ""]
    try:
        answer = explain(question(method, url, [header] if header else [], listener or None), _SCENE)
    except UsageError as error:
        answer = {"refused": str(error)}
    assert str(answer.get("refused", "")).isprintable(), "a refusal can forge a line"
    json.dumps(answer)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        request_head,
        response_head,
        chunked,
        connection,
        router,
        document,
        forwarded,
        deadline,
        trace,
        destination,
        admin_host,
        admin_explain,
    )
}
MESSAGES: Final = frozenset(("request_head", "response_head", "chunked", "connection", "forwarded"))
"""Targets whose inputs are lines: they are mutated line by line as well."""

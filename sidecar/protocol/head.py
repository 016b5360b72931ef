"""Request and response heads: strict RFC 9112 parsing in one pass, framing and connection options decided on the way.

Where the RFC lets a recipient choose between repair and refusal, requests are refused: the next hop might repair
differently, and that is what request smuggling is made of.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import BadMessage
from sidecar.model.head import UNTIL_CLOSE, Field, RequestHead, ResponseHead
from sidecar.model.reason import Reason, Rejection
from sidecar.protocol import framing
from sidecar.protocol import target as targets
from sidecar.protocol.fields import ALONE, DECIDING, GOOD, deciding_name, is_token, known_name, learn_name, reject

MAX_RESPONSE_BYTES: Final = 64 * 1024
MAX_RESPONSE_FIELDS: Final = 256
"""Limits for heads from upstreams (product.md 3.9)."""

END_OF_HEAD: Final = b"\r\n\r\n"
"""The end of the last line, and the empty one."""
_STRAY: Final = 1
_MARKS: Final = bytes(byte not in GOOD + b"\r\n" for byte in range(0x100))
"""`_STRAY` for what may stand nowhere in a head. To look for it and to count line ends costs a third of deleting what is good."""
_WITH_BODY: Final = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH"))
_ZERO: Final = 0x30
_MINOR: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"QUERY"))
_is_version: Final = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_status_line: Final = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9]{2})(?: (.*))?").fullmatch

_CACHED_HOSTS: Final = 1024
_hosts: Final[dict[bytes, bytes]] = {}
_known_host: Final = _hosts.get
_CACHED_STATUS_LINES: Final = 256
_status_lines: Final[dict[bytes, tuple[int, bytes, int]]] = {}
_known_status_line: Final = _status_lines.get


class HeadLimits:
    """Limits of a request head: octets in all (request line included), field lines, octets of the target."""

    __slots__ = ("max_bytes", "max_fields", "max_target")

    def __init__(self, max_bytes: int, max_fields: int, max_target: int) -> None:
        self.max_bytes = max_bytes
        self.max_fields = max_fields
        self.max_target = max_target


def find_end(data: bytes | bytearray, start: int = 0) -> int:
    """Index just after the empty line that ends the head, searched from `start` on; -1 when it has not come.

    `start` is the message's first byte, or, to go on after more has come, three less than the length searched before.
    """
    found = data.find(END_OF_HEAD, start)
    return -1 if found < 0 else found + 4


_empty_lines: Final = re.compile(rb"(?:\r\n)+").match


def skip_empty_lines(data: bytes) -> bytes:
    """`data` less the empty lines it begins with: a client may send some before a request line (RFC 9112 section 2.2)."""
    found = _empty_lines(data)
    return data if found is None else data[found.end() :]


def looks_wrong(data: bytes | bytearray, start: int = 0) -> BadMessage | None:
    """Why an unfinished request head can never become one, or None; `data[start:]` is what came since the last question.

    So that a peer that speaks TLS, HTTP/0.9 or bare line feeds is told at once, not at the header timeout.
    """
    if data[:2] == b"\x16\x03":
        return reject(Rejection.TLS_ON_PLAIN_PORT, "a TLS handshake on a plain-text port")
    if _has_stray_bytes(data, start):
        return _bad_bytes(bytes(data))
    end = data.find(b"\r\n")
    if end < 0 or end < start - 1:
        return None
    try:
        _check_request_line(bytes(data[:end]))
    except BadMessage as error:
        return error
    return None


def response_looks_wrong(data: bytes | bytearray, start: int = 0) -> BadMessage | None:
    """`looks_wrong` for a response head."""
    if not b"HTTP/1.".startswith(data[:7]):
        return reject(Rejection.BAD_STATUS_LINE, "not a status line", reason=_BAD)
    return _bad_bytes(bytes(data), _BAD) if _has_stray_bytes(data, start) else None


def _has_stray_bytes(data: bytes | bytearray, start: int) -> bool:
    """Whether `data[start:]` has a control character, or a line end that is not CRLF (one may be cut in two)."""
    begin = start - 1 if start and data[start - 1] == 0x0D else start
    fresh = data[begin:]
    odd = len(fresh.translate(None, GOOD)) - 2 * fresh.count(b"\r\n")
    return odd > fresh.endswith(b"\r")


def overflow(data: bytes | bytearray, limits: HeadLimits) -> BadMessage:
    """The error for a head that is longer than `limits.max_bytes`, finished or not: 414 when its target is to blame, else 431."""
    line_end = data.find(b"\r\n")
    line = bytes(data if line_end < 0 else data[:line_end])
    words = line.split(b" ", 2)
    if len(words) > 1 and len(words[1]) > limits.max_target:
        return _target_too_long()
    return reject(Rejection.HEAD_TOO_LARGE, "the head is too long", reason=Reason.HEADER_SECTION_TOO_LARGE)


def parse_request_head(block: bytes, limits: HeadLimits) -> RequestHead:
    """Everything up to and including the empty line, as a head whose framing is decided.

    Raises BadMessage: 400 malformed or ambiguous, 414 target too long, 431 head too long or too many fields,
    501 transfer codings that we do not know, 505 versions other than HTTP/1.x.
    """
    if len(block) > limits.max_bytes:
        raise overflow(block, limits)
    lines = block.split(b"\r\n")
    if _STRAY in block.translate(_MARKS) or not block.count(b"\r") == block.count(b"\n") == len(lines) - 1 or block[-4:] != END_OF_HEAD:
        raise _bad_bytes(block)
    try:
        method, target, version = lines[0].split(b" ")
    except ValueError:
        raise _bad_request_line(lines[0]) from None
    minor = _MINOR.get(version)
    if minor is None:
        minor = _other_version(version)
    if method not in _METHODS and not is_token(method):
        raise reject(Rejection.BAD_REQUEST_LINE, "the method is not a token")
    if len(target) > limits.max_target:
        raise _target_too_long()
    if not target.isascii() or 0x23 in target or 0x09 in target:  # "#" and HTAB
        raise _bad_target("a byte that no request target may hold")
    if len(lines) - 3 > limits.max_fields:
        raise reject(Rejection.TOO_MANY_FIELDS, "too many fields", reason=Reason.HEADER_SECTION_TOO_LARGE)

    fields: list[Field] = []
    add = fields.append
    found: dict[bytes, bytes] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        lower = known_name(name)
        value = value.strip(b" \t")
        if lower is None or not colon:
            lower = (deciding_name(name) if colon else None) or learn_name(name, colon, Reason.HTTP_REQUEST_ERROR)
            if lower in DECIDING:
                if lower not in found:
                    found[lower] = value
                elif lower in ALONE:
                    raise framing.repeated(lower)
                else:
                    found[lower] = found[lower] + b"," + value
        add((name, lower, value))

    head = RequestHead(method, target, minor, fields)
    head.size = len(block)
    host = found.get(b"host")
    if host is not None:
        head.host = _known_host(host) or _learn_host(host)
    elif minor:
        raise reject(Rejection.BAD_HOST, "HTTP/1.1 without Host")
    if len(found) > 1 or not minor:
        _decide_request(head, found)
    if target[:1] != b"/" or method == b"CONNECT":
        _take_other_form(head)
    return head


def _decide_request(head: RequestHead, found: dict[bytes, bytes]) -> None:
    """Framing, persistence, expectation and upgrade of a request (RFC 9112 sections 6.3 and 9.3, RFC 9110 7.8 and 10.1.1)."""
    length = framing.declared_length(found, head.minor)
    if length is not None:
        head.length = length
        _write_plain_length(head.fields, found)
    connection = found.get(b"connection")
    upgrades = False
    if connection is not None:
        close, upgrades, head.connection_tokens = _options(connection)
        head.keep_alive = not close
    if not head.minor:
        head.keep_alive = False  # RFC 9112 section 9.3: no persistence with an HTTP/1.0 client, whatever it says
        return
    if upgrades:
        head.upgrade = found.get(b"upgrade", b"")
    if head.length:
        head.expect_continue = found.get(b"expect", b"").lower() == b"100-continue"


def _write_plain_length(fields: list[Field], found: dict[bytes, bytes]) -> None:
    """Write `Content-Length: 0005` as `5`: not every recipient reads leading zeros as we do."""
    value = found.get(b"content-length")
    if value is not None and len(value) > 1 and value[0] == 0x30:
        plain = value.lstrip(b"0") or b"0"
        fields[:] = [(name, lower, plain if lower == b"content-length" else old) for name, lower, old in fields]


_NOT_NAMES: Final = frozenset((b"", b"close", b"keep-alive", b"upgrade"))
_COMMON_OPTIONS: Final[dict[bytes, tuple[bool, bool, tuple[bytes, ...]]]] = {
    b"keep-alive": (False, False, ()),
    b"Keep-Alive": (False, False, ()),
    b"close": (True, False, ()),
    b"Upgrade": (False, True, ()),
    b"upgrade": (False, True, ()),
    b"keep-alive, Upgrade": (False, True, ()),
}


def _options(value: bytes) -> tuple[bool, bool, tuple[bytes, ...]]:
    """Whether `Connection` says close, whether it says upgrade, and the field names it nominates besides (RFC 9110 7.6.1)."""
    common = _COMMON_OPTIONS.get(value)
    if common is not None:
        return common
    options = dict.fromkeys([option.strip(b" \t") for option in value.lower().split(b",")])
    names = tuple([option for option in options if option not in _NOT_NAMES])
    return b"close" in options, b"upgrade" in options, names


def _learn_host(host: bytes) -> bytes:
    """Lower case of an authority not seen before. Raises BadMessage when it is not `uri-host [":" port]`."""
    if not targets.valid_host(host):
        raise reject(Rejection.BAD_HOST, "not a host and optional port")
    if len(_hosts) >= _CACHED_HOSTS:
        _hosts.clear()
    lower = _hosts[host] = host.lower()
    return lower


def _take_other_form(head: RequestHead) -> None:
    """Targets that are not a path: authority-form, asterisk-form, absolute-form (RFC 9112 sections 3.2.2 to 3.2.4)."""
    if head.method == b"CONNECT":
        _take_authority_form(head)
    elif head.target == b"*":
        if head.method != b"OPTIONS":
            raise _bad_target("asterisk-form without OPTIONS")
    else:
        _take_absolute_form(head)


def _take_authority_form(head: RequestHead) -> None:
    target = head.target
    if not targets.valid_host(target) or targets.split_authority(target, 0)[1] == 0:
        raise _bad_target("CONNECT needs host:port")
    if head.length:
        raise reject(Rejection.BODY_ON_BODYLESS, "CONNECT with a body")
    head.host = target.lower()
    head.path = b""


def _take_absolute_form(head: RequestHead) -> None:
    parts = targets.split_absolute(head.target)
    if parts is None or parts[0] not in (b"http", b"https"):
        raise _bad_target("neither a path nor an http URI")
    scheme, authority, rest = parts
    if not targets.valid_host(authority):
        raise _bad_target("the URI's authority is not a host and optional port")
    head.scheme = scheme
    head.host = authority.lower()
    if rest[:1] == b"/":
        head.path = rest
    elif not rest and head.method == b"OPTIONS":
        head.path = b"*"
    else:
        head.path = b"/" + rest
    others = [field for field in head.fields if field[1] != b"host"]
    head.fields = [(b"Host", b"host", authority), *others]  # RFC 9112 section 3.2.2: what Host said is ignored


def _check_request_line(line: bytes) -> None:
    """Check a request line without its limits and forms. Raises BadMessage."""
    words = line.split(b" ")
    if len(words) != 3:
        raise _bad_request_line(line)
    if words[2] not in _MINOR:
        _other_version(words[2])
    if not is_token(words[0]):
        raise reject(Rejection.BAD_REQUEST_LINE, "the method is not a token")


def _other_version(version: bytes) -> int:
    """Minor version of a version that is neither HTTP/1.0 nor HTTP/1.1; a higher minor one is served as 1.1 (RFC 9110 2.5)."""
    if not _is_version(version):
        raise reject(Rejection.BAD_REQUEST_LINE, "no HTTP version at the end of the request line")
    if version[5:6] != b"1":
        raise reject(Rejection.BAD_VERSION, "the version is not HTTP/1.x", status=505)
    return 1


def _bad_request_line(line: bytes) -> BadMessage:
    if line[:1] in (b" ", b"\t"):
        return reject(Rejection.OBS_FOLD, "white space before the request line")
    return reject(Rejection.BAD_REQUEST_LINE, "the request line is not three words with single spaces")


def _bad_target(detail: str) -> BadMessage:
    return reject(Rejection.BAD_TARGET, detail)


def _target_too_long() -> BadMessage:
    return reject(Rejection.TARGET_TOO_LONG, "the target is too long", reason=Reason.URI_TOO_LONG)


_bare_lf: Final = re.compile(rb"(?<!\r)\n").search
_control: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)").search


def _bad_bytes(block: bytes, reason: Reason = Reason.HTTP_REQUEST_ERROR) -> BadMessage:
    """Which rule a head breaks that holds a control character or a stray line end, or does not end as it should."""
    if _bare_lf(block):
        return reject(Rejection.BARE_LF, "a line feed without its carriage return", reason=reason)
    bad = _control(block)
    if bad is None:
        return reject(Rejection.BAD_REQUEST_LINE, "no empty line ends the head", reason=reason)
    line = block[block.rfind(b"\n", 0, bad.start()) + 1 : bad.start()]
    if b"\n" not in block[: bad.start()]:
        response = reason is not Reason.HTTP_REQUEST_ERROR
        rejection = Rejection.BAD_STATUS_LINE if response else Rejection.BAD_TARGET if b" " in line else Rejection.BAD_REQUEST_LINE
        return reject(rejection, "a control character in the first line", reason=reason)
    rejection = Rejection.BAD_FIELD_VALUE if b":" in line else Rejection.BAD_FIELD_NAME
    return reject(rejection, "a control character in a field line", reason=reason)


_BAD: Final = Reason.HTTP_PROTOCOL_ERROR
_RESPONSE_ALONE: Final = ALONE - {b"host"}


def parse_response_head(
    block: bytes, request_method: bytes, max_fields: int = MAX_RESPONSE_FIELDS, max_bytes: int = MAX_RESPONSE_BYTES
) -> ResponseHead:
    """Everything up to and including the empty line; `request_method` decides about the body (RFC 9112 section 6.3).

    Raises BadMessage (502) with reason `http_protocol_error`, or `http_response_header_section_size` at a limit.
    """
    if len(block) > max_bytes:
        raise response_overflow()
    lines = block.split(b"\r\n")
    if _STRAY in block.translate(_MARKS) or not block.count(b"\r") == block.count(b"\n") == len(lines) - 1 or block[-4:] != END_OF_HEAD:
        raise _bad_bytes(block, _BAD)
    if len(lines) - 3 > max_fields:
        raise reject(Rejection.TOO_MANY_FIELDS, "too many fields", reason=Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE)
    status, reason, minor = _known_status_line(lines[0]) or _learn_status_line(lines[0])

    fields: list[Field] = []
    add = fields.append
    found: dict[bytes, bytes] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        lower = known_name(name)
        value = value.strip(b" \t")
        if lower is None or not colon:
            name = name.rstrip(b" \t")  # RFC 9112 section 5.1: a proxy must remove it from responses
            lower = (deciding_name(name) if colon else None) or learn_name(name, colon, _BAD)
            if lower in DECIDING:
                if lower not in found:
                    found[lower] = value
                elif lower in _RESPONSE_ALONE:
                    raise framing.repeated(lower, _BAD)
                else:
                    found[lower] = found[lower] + b"," + value
        add((name, lower, value))

    head = ResponseHead(status, reason, minor, fields)
    head.size = len(block)
    _decide_response(head, found, request_method)
    return head


def _decide_response(head: ResponseHead, found: dict[bytes, bytes], request_method: bytes) -> None:
    """Framing, persistence and upgrade of a response."""
    if len(found) == 1 and head.minor and head.status == 200 and request_method in _WITH_BODY:  # what most responses are
        value = found.get(b"content-length", b"")
        if value.isdigit() and len(value) <= framing.MAX_LENGTH_DIGITS and value[0] != _ZERO:
            head.length = int(value)
            return
    declared = framing.declared_length(found, head.minor, _BAD)
    head.length = framing.response_length(declared, head.status, request_method)
    if declared is not None:
        _write_plain_length(head.fields, found)
    connection = found.get(b"connection")
    if connection is not None:
        close, upgrades, head.connection_tokens = _options(connection)
        head.keep_alive = not close
        if upgrades:
            head.upgrade = found.get(b"upgrade", b"")
    if not head.minor or head.length == UNTIL_CLOSE:
        head.keep_alive = False
    if declared is not None and framing.forbids_length(head.status, request_method):
        # It may send that body all the same; then the connection's next bytes are not a response.
        head.keep_alive = head.keep_alive and declared == 0
        head.fields = [field for field in head.fields if field[1] != b"content-length"]


def response_overflow() -> BadMessage:
    """The error for a response head that is longer than the limit, finished or not."""
    return reject(Rejection.HEAD_TOO_LARGE, "the response head is too long", reason=Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE)


def _learn_status_line(line: bytes) -> tuple[int, bytes, int]:
    """Status, reason phrase and minor version of a status line not seen before. Raises BadMessage."""
    match = _status_line(line)
    if match is None:
        raise reject(Rejection.BAD_STATUS_LINE, "not a status line", reason=_BAD)
    if match[1] != b"1":
        raise reject(Rejection.BAD_VERSION, "the version is not HTTP/1.x", reason=_BAD)
    parsed = int(match[3]), match[4] or b"", min(int(match[2]), 1)
    if len(line) <= 64:
        if len(_status_lines) >= _CACHED_STATUS_LINES:
            _status_lines.clear()
        _status_lines[line] = parsed
    return parsed

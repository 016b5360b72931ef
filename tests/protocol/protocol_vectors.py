"""Hostile and odd request bytes with what must become of them, and a reader that drives the protocol functions as a connection does."""

from typing import NamedTuple

from sidecar.errors import BadMessage
from sidecar.model.head import CHUNKED, Field, RequestHead
from sidecar.protocol.chunked import ChunkedDecoder
from sidecar.protocol.head import HeadLimits, find_end, looks_wrong, overflow, parse_request_head

LIMITS = HeadLimits(32 * 1024, 128, 8 * 1024)


class Message(NamedTuple):
    head: RequestHead
    body: bytes
    trailers: list[Field]


class RequestReader:
    """Feed it bytes in any pieces; `messages` are the complete ones, `error` ends it."""

    def __init__(self, limits: HeadLimits = LIMITS) -> None:
        self.limits = limits
        self.messages: list[Message] = []
        self.error: BadMessage | None = None
        self.buffer = b""
        self.scanned = 0
        self.head: RequestHead | None = None
        self.body = b""
        self.decoder = ChunkedDecoder()

    def feed(self, data: bytes) -> None:
        self.buffer += data
        try:
            while self.error is None and self._step():
                pass
        except BadMessage as error:
            self.error = error

    def _step(self) -> bool:
        return self._read_head() if self.head is None else self._read_body(self.head)

    def _read_head(self) -> bool:
        while self.scanned <= 1 and self.buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2
            self.buffer, self.scanned = self.buffer[2:], 0
        end = find_end(self.buffer, max(self.scanned - 3, 0))
        if end < 0:
            if len(self.buffer) > self.limits.max_bytes:
                raise overflow(self.buffer, self.limits)
            error = looks_wrong(self.buffer, self.scanned)
            if error is not None:
                raise error
            self.scanned = len(self.buffer)
            return False
        self.head = parse_request_head(self.buffer[:end], self.limits)
        self.buffer, self.scanned = self.buffer[end:], 0
        return True

    def _read_body(self, head: RequestHead) -> bool:
        if head.length == CHUNKED:
            payload, used = self.decoder.decode(self.buffer)
            self.body += payload
            self.buffer = self.buffer[used:]
            if not self.decoder.done:
                return False
        else:
            wanted = head.length - len(self.body)
            self.body += self.buffer[:wanted]
            self.buffer = self.buffer[wanted:]
            if len(self.body) < head.length:
                return False
        self.messages.append(Message(head, self.body, self.decoder.trailers))
        self.head, self.body, self.decoder = None, b"", ChunkedDecoder()
        return True


def read(data: bytes, *cuts: int) -> RequestReader:
    """Feed `data` cut at the given places."""
    reader = RequestReader()
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        if reader.error is None:
            reader.feed(data[begin:end])
    return reader


P = b"POST / HTTP/1.1\r\nHost: a\r\n"
G = b"GET / HTTP/1.1\r\nHost: a\r\n"
T = P + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def _length(value: bytes) -> bytes:
    return P + b"Content-Length: " + value + b"\r\n\r\nhello"


def _coding(value: bytes) -> bytes:
    return P + b"Transfer-Encoding: " + value + b"\r\n\r\n" + HELLO


def _hidden(line: bytes) -> bytes:
    return P + line + b"\r\nContent-Length: 5\r\n\r\nhello"


def _host(value: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"


def _line(line: bytes) -> bytes:
    return line + b"\r\nHost: a\r\n\r\n"


def _field(line: bytes) -> bytes:
    return G + line + b"\r\n\r\n"


REFUSED: list[tuple[bytes, int, str]] = [
    # Length fields
    (P + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", 400, "CL.TE"),
    (P + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n", 400, "TE.CL"),
    (P + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "two lengths"),
    (P + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "two equal lengths"),
    (_length(b"5, 5"), 400, "a list of lengths"),
    *[
        (_length(value), 400, f"length {value!r}")
        for value in (
            b"+5",
            b"-5",
            b"0x5",
            b"5 5",
            b"",
            b"1_0",
            b"5,",
            b",5",
            b"5.0",
            b"\xef\xbc\x95",
            b"-0",
            b"5\xa0",
            b"\x0b5",
            b"5\x1a",
            b"5;",
            b"5e0",
            b"\xb2",
            b"9223372036854775808",
            b"18446744073709551621",
            b"9" * 100,
            b"0" * 30 + b"5",
        )
    ],
    (P + b"Content_Length: 50\r\nContent-Length: 5\r\n\r\nhello", 400, "underscored length beside a length"),
    (P + b"content_length: 5\r\n\r\nhello", 400, "underscored length"),
    # Transfer-Encoding forms
    *[
        (_coding(value), 400, f"coding {value!r}")
        for value in (
            b"xchunked",
            b"chunked, identity",
            b"chunked;a=b",
            b"\x0bchunked",
            b"chunked\x0b",
            b'"chunked"',
            b"identity",
            b"gzip",
            b"",
            b"chunked;",
            b"chunked.",
            b"\xa0chunked",
            b"chunked, chunked",
            b", chunked",
            b"chunked,",
            b"ch unked",
            b"chunke\xe4",
            b"chunked\x00",
        )
    ],
    *[(_coding(value), 501, f"coding {value!r}") for value in (b"identity, chunked", b"gzip, chunked", b"gzip,\tdeflate , chunked")],
    (P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO, 400, "two codings lines"),
    (b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO, 400, "coding in 1.0"),
    (P + b"Transfer-Encoding: \r\nContent-Length: 5\r\n\r\nhello", 400, "empty coding and a length"),
    # Hidden names
    *[
        (_hidden(line), 400, f"hidden {line!r}")
        for line in (
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding\t: chunked",
            b"Transfer-Encoding\x00: chunked",
            b"Transfer-Encoding\x08: chunked",
            b"Transfer-Encoding:\r\n chunked",
            b"X: a\nTransfer-Encoding: chunked",
            b"X: a\rTransfer-Encoding: chunked",
            b"Foo\nTransfer-Encoding: chunked",
            b"\rTransfer-Encoding: chunked",
            b" Transfer-Encoding: chunked",
            b"X: y\r\n Transfer-Encoding: chunked",
            b"X: y\r\n\tTransfer-Encoding: chunked",
            b"X: a\x00Transfer-Encoding: chunked",
            b"Transfer_Encoding: chunked",
            b"transfer_encoding: chunked",
            b"Transfer-Encoding\xa0: chunked",
            b"Transfer-Encoding",
            b"Content-Length",
            b"Host",
        )
    ],
    (b"GET / HTTP/1.1\r\n Host: a\r\nX: y\r\n\r\n", 400, "white space before the first field"),
    # Chunk lines
    *[
        (T + chunk, 400, f"chunk {chunk[:40]!r}")
        for chunk in (
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0_5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"00000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5;\nxx\r\nhello\r\n0\r\n\r\n",
            b"5;a\nxx\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"-0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\t\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r\n0\n\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n",
            b"5; a\r\nhello\r\n0\r\n\r\n",
            b"5 ;a\r\nhello\r\n0\r\n\r\n",
            b"5;a=\r\nhello\r\n0\r\n\r\n",
            b'5;a="\r\nhello"\r\nhello\r\n0\r\n\r\n',
            b"5;a=" + b"x" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
            b"5;a=" + b"x" * 1048576,
            b"ffffffffffffffff\r\nhello",
            b"1000000000000000\r\nhello",
            b"5\r\nhello\r\nZZ\r\n",
            b"5\r\nhello\r\n\xef\xbc\x95\r\n",
            (b"1;a=" + b"x" * 4000 + b"\r\nh\r\n") * 5,
        )
    ],
    *[
        (T + b"5\r\nhello\r\n0\r\n" + trailer, 400, f"trailer {trailer[:40]!r}")
        for trailer in (
            b"X: a\n\r\n",
            b"X: a\nY: b\r\n\r\n",
            b"no colon\r\n\r\n",
            b"X\r\n\r\n",
            b": x\r\n\r\n",
            b" X: folded\r\n\r\n",
            b"X : y\r\n\r\n",
            b"X: \x00\r\n\r\n",
            b"X: a\rb\r\n\r\n",
            b"X: y\r\n" * 200 + b"\r\n",
            b"X: " + b"y" * 9000 + b"\r\n\r\n",
            b"Y: " + b"y" * 20000,
        )
    ],
    # Host and target
    (b"GET / HTTP/1.1\r\n\r\n", 400, "no Host"),
    (G + b"Host: a\r\n\r\n", 400, "two Hosts"),
    (G + b"Host: b\r\n\r\n", 400, "two different Hosts"),
    *[
        (_host(value), 400, f"Host {value!r}")
        for value in (
            b"",
            b"a, b",
            b"a,b",
            b"u@a",
            b"a/b",
            b"a b",
            b"a:99999",
            b"a:8x",
            b"a:0",
            b"a:-1",
            b"\xc3\xa9",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[::g]",
            b"[::1%25eth0]",
            b"[v1.x]",
            b"a?b",
            b"a#b",
            b"a\\b",
            b"a%zz",
            b"a%",
            b":80",
            b"a:80:80",
            b"http://a",
            b"x" * 300,
        )
    ],
    *[
        (_line(line), 400, f"request line {line!r}")
        for line in (
            b"GET http://u@b/ HTTP/1.1",
            b"GET http://u:p@b/ HTTP/1.1",
            b"GET http:///x HTTP/1.1",
            b"GET http://b:99999/ HTTP/1.1",
            b"GET ftp://b/ HTTP/1.1",
            b"GET http:/b HTTP/1.1",
            b"GET b:80 HTTP/1.1",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET  HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"GET / http/1.1",
            b"GET / HTTP/1.1x",
            b"GET / HTTP/1.10",
            b"GET / HTTP/1",
            b"GET / HTTP/\xb9.1",
            b"GET / HTP/1.1",
            b"GET /",
            b"GET",
            b"",
            b"/ HTTP/1.1",
            b"GET /a#f HTTP/1.1",
            b"GET /\x80 HTTP/1.1",
            b"GET /\xc3\xa9 HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET ?a HTTP/1.1",
            b"GET a HTTP/1.1",
            b"GET * HTTP/1.1",
            b"G\xc9T / HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"GET: / HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"CONNECT a HTTP/1.1",
            b"CONNECT a: HTTP/1.1",
            b"CONNECT a:0 HTTP/1.1",
            b"CONNECT a:99999 HTTP/1.1",
            b"CONNECT :80 HTTP/1.1",
            b"CONNECT u@a:80 HTTP/1.1",
            b"CONNECT http://a:80/ HTTP/1.1",
            b"CONNECT * HTTP/1.1",
        )
    ],
    *[(_line(line), 505, f"version {line!r}") for line in (b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/3.0", b"PRI * HTTP/2.0")],
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2 preface"),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400, "CONNECT with a length"),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO, 400, "CONNECT with chunks"),
    (b"GET http://b/ HTTP/1.1\r\n\r\n", 400, "absolute-form without Host"),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bare line feeds"),
    (b"GET / HTTP/1.1\rHost: a\r\r", 400, "bare carriage returns"),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400, "one bare line feed"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS ClientHello"),
    (b"\x00\x01\x02", 400, "binary"),
    (b"GET /\r\n", 400, "HTTP/0.9 simple request"),
    # Fields
    *[
        (_field(line), 400, f"field {line!r}")
        for line in (
            b"X: a\x00",
            b"X: \x01",
            b"X: a\x7fb",
            b"X: a\rb",
            b"X: a\nb",
            b": x",
            b"foo",
            b"a b: c",
            b"X(y): z",
            b"X\xc3\xa9: z",
            b"X\t: z",
            b"X=: z" + b"\x0c",
            b"X@y: z",
            b"X: a\r\n folded",
        )
    ],
    (G + b"X: y\r\n" * 128 + b"\r\n", 431, "129 fields"),
    (G + b"X: " + b"y" * 40000 + b"\r\n\r\n", 431, "a field of 40 kB"),
    (G + (b"X: " + b"y" * 1000 + b"\r\n") * 100 + b"\r\n", 431, "100 fields of 1 kB"),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "a target of 9 kB"),
    (b"GET /" + b"x" * 90000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "a target of 90 kB"),
]

ACCEPTED: list[tuple[bytes, list[tuple[bytes, bytes, bytes]], str]] = [
    (G + b"\r\n", [(b"GET", b"/", b"")], "a plain GET"),
    (b"\r\n" + G + b"\r\n", [(b"GET", b"/", b"")], "one empty line before the request"),
    (_length(b"0005"), [(b"POST", b"/", b"hello")], "leading zeros"),
    (_length(b"5 \t"), [(b"POST", b"/", b"hello")], "blanks around a length"),
    (_coding(b"CHUNKED"), [(b"POST", b"/", b"hello")], "upper-case coding"),
    (_coding(b"\tchunked"), [(b"POST", b"/", b"hello")], "tab before the coding"),
    (_coding(b"chunked "), [(b"POST", b"/", b"hello")], "blank after the coding"),
    (G + b"Content-Length: 5\r\n\r\nhello", [(b"GET", b"/", b"hello")], "a GET with a body"),
    (P + b"Content-Length: 0\r\n\r\n" + G + b"\r\n", [(b"POST", b"/", b""), (b"GET", b"/", b"")], "an empty body, then a request"),
    (P + b"\r\n" + G + b"\r\n", [(b"POST", b"/", b""), (b"GET", b"/", b"")], "no length, then a request"),
    (T + HELLO + G + b"\r\n", [(b"POST", b"/", b"hello"), (b"GET", b"/", b"")], "chunks, then a request"),
    (T + b'5;a=b;c;d="x;\\"y"\r\nhello\r\n000\r\n\r\n', [(b"POST", b"/", b"hello")], "extensions are read over"),
    (T + b"A\r\n0123456789\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", [(b"POST", b"/", b"0123456789hello")], "two chunks and a trailer"),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", [(b"GET", b"/", b"")], "HTTP/1.2 is served as 1.1"),
    (b"GET / HTTP/1.0\r\n\r\n", [(b"GET", b"/", b"")], "HTTP/1.0 without Host"),
    (b"GET //evil.com/x HTTP/1.1\r\nHost: a\r\n\r\n", [(b"GET", b"//evil.com/x", b"")], "two slashes stay"),
    (b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", [(b"GET", b"/a/../b", b"")], "dot segments stay"),
    (b"GET /%2e%2F%41%zz%|;? HTTP/1.1\r\nHost: a\r\n\r\n", [(b"GET", b"/%2e%2F%41%zz%|;?", b"")], "escapes stay"),
    (b"GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", [(b"GET", b"/x?y", b"")], "absolute-form goes on in origin-form"),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [(b"OPTIONS", b"*", b"")], "asterisk-form"),
    (b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", [(b"OPTIONS", b"*", b"")], "OPTIONS of a whole server"),
    (b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", [(b"GET", b"/?q", b"")], "absolute-form without path"),
    (b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", [(b"CONNECT", b"", b"")], "authority-form"),
    (b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", [(b"M-SEARCH", b"/", b"")], "an unknown method"),
    (_field(b"X_y: z"), [(b"GET", b"/", b"")], "an innocent underscore"),
    (_field(b"X:"), [(b"GET", b"/", b"")], "an empty value"),
    (_field(b"X: a\xff\xfe\tb"), [(b"GET", b"/", b"")], "obs-text and tab in a value"),
    *[
        (_host(value), [(b"GET", b"/", b"")], f"Host {value!r}")
        for value in (b"a", b"A.b:80", b"a:", b"[::1]", b"[::1]:8080", b"1.2.3.4:65535", b"a_b.c", b"a%41", b"a!$&'()*+;=~")
    ],
]

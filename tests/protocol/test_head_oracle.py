"""Heads against llhttp in its strict mode: whatever we accept, it reads with the same method, target, fields and body."""

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_vectors import ACCEPTED, read


class Oracle:
    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = []

    def on_message_begin(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.messages.append((self.parser.get_method(), self.target, self.fields, self.body))


def by_llhttp(data: bytes) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]]:
    oracle = Oracle()
    oracle.parser = httptools.HttpRequestParser(oracle)
    try:
        oracle.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        oracle.messages = oracle.messages or [(oracle.parser.get_method(), oracle.target, oracle.fields, b"")]
    return oracle.messages


def by_us(data: bytes) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] | None:
    reader = read(data)
    if reader.error is not None:
        return None
    return [
        (m.head.method, m.head.target, [(name, value) for name, _, value in m.head.fields + m.trailers], m.body) for m in reader.messages
    ]


# What llhttp does not do: unknown methods and versions, targets that it parses more strictly, and our rewriting of
# lengths and of Host (absolute-form).
DIFFERENT = ("HTTP/1.2", "unknown method", "absolute-form", "OPTIONS of", "leading zeros", "then a request", "escapes stay")


def test_llhttp_reads_the_accepted_vectors_as_we_do():
    compared = 0
    for data, _, why in ACCEPTED:
        if any(word in why for word in DIFFERENT):
            continue
        assert by_llhttp(data) == by_us(data), why
        compared += 1
    assert compared > 20


TOKEN = st.text("ABCxyz019-!~", min_size=1, max_size=8).map(lambda text: ("X" + text).encode())
VALUE = st.text("abc ,;=\t\u00e9", max_size=12).map(lambda text: text.encode("latin-1"))
TARGET = st.text("/ab.%2e?&=:;~@!-_", max_size=20).map(lambda text: b"/" + text.encode())
BODY = st.one_of(
    st.just(b"\r\n"),
    st.binary(max_size=20).map(lambda body: b"Content-Length: %d\r\n\r\n" % len(body) + body),
    st.binary(min_size=1, max_size=20).map(lambda body: b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"),
)
NOISE = st.sampled_from(
    [b"", b"", b"", b"\r\n", b"\n", b" ", b"\t", b":", b"\x00", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b" : "]
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_llhttp_reads_what_we_accept_as_we_do(data):
    def draw(strategy):
        return data.draw(strategy)

    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"DELETE"]))
    fields = b"".join(name + b":" + draw(VALUE) + b"\r\n" for name in draw(st.lists(TOKEN, max_size=4)))
    message = method + b" " + draw(TARGET) + b" HTTP/1.1\r\nHost: a\r\n" + draw(NOISE) + fields + draw(NOISE) + draw(BODY)
    ours = by_us(message)
    if ours:
        assert by_llhttp(message) == ours

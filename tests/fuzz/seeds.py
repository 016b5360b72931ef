"""Where fuzzing begins: the corpus, a few words for each grammar, and what was found before (`seeds/TARGET/`)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "corpus"))

from corpus_data import SHORT, load  # noqa: E402  # the corpus is data of the tests beside us

WORDS: Final[dict[str, list[bytes]]] = {
    "router": [
        b"h.test\n/w",
        b"a.test\na/../b",
        b"x\n%61/b?k=v\n1",
        b"\na%2fb",
        b"\n%2e%2e/a",
        b"h\nq?k=v",
        b"\nrs",
        b"\na//b",
        b"\na/b/%2e",
    ],
    "document": [
        b"apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: 'http://127.0.0.1:8000'}]}]\n",
        (HERE.parents[1] / "examples" / "quickstart.yaml").read_bytes(),
        b'{"apiVersion": "outrider.dev/v1alpha1", "kind": "SidecarConfig", "upstreams": []}',
        (
            b"apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nlisteners: [{name: in, port: 1, tls: {certFile: /c, keyFile: /k, clientCA: {file: /a}}}]\n"
            b"upstreams: [{name: app, targets: [{url: 'https://a.test'}], tls: {hostname: b.test}, proxyURL: 'http://u:p@proxy:1'}]\n"
        ),
        b"a: &x [*x, *x]\n",
        b"a: !!python/object:os.system x\n",
        b"? [a]\n: b\n",
    ],
    "forwarded": [
        b"X-Forwarded-For: 1.2.3.4, [::1]:80\nX-Forwarded-Proto: https",
        b"X_Forwarded_For: a\nForwarded: for=x\nVia: 1.1 outrider",
        b"x-forwarded-for: ,,\nX-Real-IP: 10.0.0.2",
    ],
    "deadline": [b"1", b"0", b"1500", b"9999999999", b"-1", b"1.5", "\u0661".encode()],
    "trace": [
        b"00-11111111111111111111111111111111-2222222222222222-01\na=b,c@d=e",
        b"01-11111111111111111111111111111111-2222222222222222-03-x\n" + b",".join(b"k%d=%b" % (n, b"v" * 150) for n in range(32)),
        b"00-00000000000000000000000000000000-2222222222222222-01",
    ],
    "destination": [
        b"127.0.0.1",
        b"127.1",
        b"0x7f.1",
        b"2130706433",
        b"017700000001",
        b"[::ffff:127.0.0.1]",
        b"[64:ff9b::a9fe:a9fe]",
        b"a.test",
        b"1.2.3.4.",
    ],
    "admin_host": [b"localhost:1", b"127.0.0.1", b"[::1]:15020", b"10.1.2.3", b"127.1", b"evil.test", b"localhost.evil"],
    "admin_explain": [
        b"GET\nhttp://h/a\nx: y\nin",
        b"CONNECT\na:443\n\nout",
        b"OPTIONS\n*",
        b"GET\n/a/../%2e",
        b"GET\nhttp://127.0.0.1/\n\nout",
    ],
}


def of(target: str) -> list[bytes]:
    """All seeds of a target: kept ones, words, and the messages of the corpus that it reads."""
    kept = [path.read_bytes() for path in sorted((HERE / "seeds" / target).glob("*"))]
    return kept + WORDS.get(target, []) + _messages(target)


def _messages(target: str) -> list[bytes]:
    requests = [vector.data for vector in load("requests") if len(vector.data) <= SHORT and not vector.generated]
    responses = [vector.data for vector in load("responses") if len(vector.data) <= SHORT and not vector.generated]
    if target == "request_head":
        return [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data in requests]
    if target == "response_head":
        return [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data in responses]
    if target == "connection":
        return [b"\x07" + data for data in requests]
    if target == "chunked":
        return [b"\x02" + data.partition(b"\r\n\r\n")[2] for data in requests + responses if b"chunked" in data]
    return []


PIECES: Final = [
    b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b",", b";", b"\x00", b"\xff", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Host: a", b"Content-Length: 5",
    b"Transfer-Encoding: chunked", b"Connection: close, x-a", b"Expect: 100-continue", b"Upgrade: h2c", b"GET / HTTP/1.1", b"HTTP/1.1 200 OK",
    b"HTTP/1.0", b"http://b/", b"CONNECT b:443 HTTP/1.1", b"X_Forwarded_For: x", b"Content_Length: 5", b"%2e", b"*",
]  # fmt: skip
"""Words of messages that are put between and into lines."""


def mutate(data: bytes, limit: int, seed: int, plain: Callable[[bytes, int], bytes]) -> bytes:
    """Change the structure of a message (lines doubled, dropped, swapped, words put in), or some bytes of it by `plain`."""
    draw = random.Random(seed)
    if draw.random() < 0.5:
        return plain(data, limit)
    mark = b"\r\n" if b"\r\n" in data else b"\n"
    lines = data.split(mark)
    at = draw.randrange(len(lines))
    what = draw.randrange(5)
    if what == 0:
        lines.insert(at, lines[draw.randrange(len(lines))])
    elif what == 1:
        del lines[at]
    elif what == 2:
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 3:
        lines.insert(at, draw.choice(PIECES))
    else:
        inside = draw.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:inside] + draw.choice(PIECES) + lines[at][inside:]
    return mark.join(lines)[:limit]

"""What stays with the connection, what travels on, and what nobody may have removed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.head import Field
from sidecar.protocol.hop_by_hop import (
    REQUEST_DROPPED,
    RESPONSE_DROPPED,
    accepts_trailers,
    sift,
    strip_request,
    strip_response,
    trailers_allowed,
    underscored,
)


def lines(*names: bytes) -> list[Field]:
    return [(name, name.lower(), b"v%d" % number) for number, name in enumerate(names)]


def names(fields: list[Field]) -> list[bytes]:
    return [field[0] for field in fields]


def test_connection_fields_never_travel():
    dropped = lines(
        b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"HTTP2-Settings"
    )
    assert strip_request(dropped, ()) == []
    assert strip_response(dropped, ()) == []


def test_a_request_loses_proxy_credentials_and_httpoxy_and_a_response_its_challenge():
    assert names(strip_request(lines(b"Proxy-Authorization", b"Proxy", b"Authorization"), ())) == [b"Authorization"]
    assert names(strip_response(lines(b"Proxy-Authenticate", b"WWW-Authenticate"), ())) == [b"WWW-Authenticate"]
    assert names(strip_response(lines(b"Proxy-Authenticate"), (), 407)) == [b"Proxy-Authenticate"]


def test_names_that_a_wsgi_server_confuses_with_ours_are_dropped_and_others_pass():
    confused = lines(
        b"X_Forwarded_For", b"x_real-ip", b"X-Request_ID", b"X_Request-Timeout_MS", b"Proxy_Authorization", b"Transfer_Encoding"
    )
    assert strip_request([*confused, *lines(b"X_Custom")], ()) == lines(b"X_Custom")


def test_nominated_fields_are_removed_in_both_directions():
    fields = lines(b"X-A", b"Cache-Control", b"X-B")
    assert names(strip_request(fields, (b"x-a", b"cache-control"))) == [b"X-B"]
    assert names(strip_response(fields, (b"x-a",), 407)) == [b"Cache-Control", b"X-B"]


def test_some_fields_cannot_be_nominated_away():
    protected = lines(
        *(b"Host", b"Content-Length", b"Authorization", b"Cookie", b"Via", b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Other"),
        *(b"X-Real-IP", b"X-Request-ID", b"traceparent", b"tracestate"),
    )
    tokens = tuple(field[1] for field in protected)
    assert strip_request(protected, tokens) == protected
    assert strip_response(protected, tokens) == protected


def test_sifting_takes_own_fields_out_and_joins_their_lines():
    fields = [(b"Via", b"via", b"1.1 a"), (b"A", b"a", b"1"), (b"via", b"via", b"1.1 b"), (b"TE", b"te", b"x"), (b"B", b"b", b"2")]
    kept, found = sift(fields, (b"b", b"via"), frozenset((b"via",)))
    assert kept == [(b"A", b"a", b"1")]
    assert found == {b"via": b"1.1 a, 1.1 b"}


def test_te_trailers_says_that_trailers_are_read():
    assert accepts_trailers([(b"TE", b"te", b"gzip , Trailers")])
    assert accepts_trailers([(b"TE", b"te", b"gzip"), (b"te", b"te", b"trailers")])
    assert not accepts_trailers([(b"TE", b"te", b"trailersx"), (b"X", b"x", b"trailers")])
    assert not accepts_trailers([])


def test_trailers_that_frame_route_authenticate_or_control_are_dropped():
    allowed = lines(b"grpc-status", b"grpc-message", b"X-Checksum", b"Server-Timing", b"ETag")
    forbidden = lines(
        *(b"Transfer-Encoding", b"Content-Length", b"Host", b"Set-Cookie", b"Authorization", b"Content-Type", b"Content-Encoding"),
        *(b"Trailer", b"Connection", b"Cache-Control", b"X-Forwarded-For", b"X_Forwarded_Proto", b"X-Request-ID", b"Via", b"traceparent"),
    )
    assert trailers_allowed([*forbidden, *allowed]) == allowed
    assert names(trailers_allowed(allowed, (b"x-checksum",))) == [b"grpc-status", b"grpc-message", b"Server-Timing", b"ETag"]
    assert trailers_allowed([]) == []


def test_every_mix_of_dashes_and_underscores_counts():
    assert underscored([b"a-b-c", b"via"]) == {b"a_b-c", b"a-b_c", b"a_b_c"}


NAMES = st.sampled_from([b"Host", b"TE", b"X-A", b"x-b", b"Via", b"Connection", b"Cookie", b"X_Real_IP", b"Upgrade", b"X-Forwarded-For"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=3)), max_size=10), st.lists(NAMES.map(bytes.lower), max_size=3).map(tuple))
def test_stripping_is_idempotent_keeps_order_and_agrees_with_sifting(pairs, tokens):
    fields = [(name, name.lower(), value) for name, value in pairs]
    for strip, dropped in ((strip_request, REQUEST_DROPPED), (strip_response, RESPONSE_DROPPED)):
        once = strip(fields, tokens)
        assert strip(once, tokens) == once
        assert [field for field in fields if field in once] == once
        assert not {field[1] for field in once} & dropped
    assert sift(fields, tokens, frozenset()) == (strip_request(fields, tokens), {})

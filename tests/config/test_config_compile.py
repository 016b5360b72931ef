from ipaddress import ip_network

import pytest

from sidecar.config.effective import effective
from sidecar.config.load import Loaded, Problems, load
from sidecar.config.packed import Packed
from sidecar.model import snapshot as model
from sidecar.model import telemetry

HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n"
UPSTREAM = 'upstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'


def loaded(body):
    outcome = load((HEAD + body).encode(), revision="r1")
    assert isinstance(outcome, Loaded), outcome
    return outcome


def snapshot(body):
    return loaded(body).snapshot


def test_a_short_document_has_two_listeners_and_sends_everything_to_its_only_upstream():
    compiled = snapshot(UPSTREAM)
    assert compiled.listeners == (
        model.Listener(name="inbound", port=15001, bind="0.0.0.0", mode=model.Mode.REVERSE),
        model.Listener(name="outbound", port=15002, bind="127.0.0.1", mode=model.Mode.FORWARD),
    )
    assert compiled.routes == (model.Route(name="routes[0]", index=0, backends=(model.Backend(name="app"),)),)
    assert compiled.upstreams == {"app": model.Upstream(name="app", targets=(model.Target(host="127.0.0.1", port=8000),))}
    assert (compiled.revision, len(compiled.hash)) == ("r1", 16)


def test_what_the_document_leaves_out_has_the_same_defaults_as_the_model():
    compiled = snapshot(UPSTREAM)
    assert compiled.telemetry == model.Telemetry()
    assert compiled.lifecycle == model.Lifecycle()
    assert compiled.default_timeouts == model.Timeouts()
    assert snapshot(UPSTREAM + "routes: [{backendRefs: [{name: app}], retry: {}}]\n").routes[0].retry == model.RetryPolicy()


def test_the_implied_route_leaves_forward_listeners_to_their_allow_list():
    body = UPSTREAM + "listeners: [{name: a, port: 1}, {name: b, port: 2, mode: Forward, allow: [x.com]}, {name: c, port: 3}]\n"
    assert [(route.name, route.listener) for route in snapshot(body).routes] == [("routes[0]", "a"), ("routes[1]", "c")]


def test_without_upstreams_there_is_no_implied_route():
    assert snapshot("").routes == ()


def test_an_unnamed_route_is_named_by_its_place():
    body = UPSTREAM + "routes: [{name: a, backendRefs: [{name: app}]}, {matches: [{path: {value: /x}}], backendRefs: [{name: app}]}]\n"
    assert [route.name for route in snapshot(body).routes] == ["a", "routes[1]"]


def test_default_timeouts_are_merged_under_a_route_key_by_key():
    body = UPSTREAM + "defaults: {timeouts: {request: 9s, queue: 1s}}\nroutes: [{backendRefs: [{name: app}], timeouts: {request: 3s}}]\n"
    compiled = snapshot(body)
    assert compiled.routes[0].timeouts == model.Timeouts(request=3.0, queue=1.0)
    assert compiled.default_timeouts == model.Timeouts(request=9.0, queue=1.0)


@pytest.mark.parametrize(
    ("retry", "attempts", "codes"), [("", 5, {500}), ("retry: {attempts: 1}", 1, {502, 503, 504}), ("retry: null", None, None)]
)
def test_a_routes_retry_replaces_the_default_one_whole(retry, attempts, codes):
    body = UPSTREAM + f"defaults: {{retry: {{attempts: 5, codes: [500]}}}}\nroutes:\n  - backendRefs: [{{name: app}}]\n    {retry}\n"
    policy = snapshot(body).routes[0].retry
    assert (attempts, codes) == (None, None) if policy is None else (policy.attempts, set(policy.codes)) == (attempts, codes)


def test_every_part_of_a_listener_is_compiled():
    (listener,) = snapshot(
        "listeners: [{name: a, port: 0, bind: '::1', mode: Forward, headerTimeout: 1s, bodyIdleTimeout: 2s, idleTimeout: 0s, maxHeaderBytes: 2Ki,\n"
        " maxHeaderCount: 7, maxTargetBytes: 512, maxRequestBody: 1M, maxConnections: 9, trustedProxies: [10.0.0.0/8, '::1'], forwarded: Set,\n"
        " allow: ['*.Example.com', 'a.b:8443', 'c:*', 10.0.0.0/8, '10.1.2.3:53', '[fd00::/8]:443', 'fd00::1', '[fd00::2]']}]\n"
    ).listeners
    web = frozenset({80, 443})
    assert listener == model.Listener(
        name="a",
        port=0,
        bind="::1",
        mode=model.Mode.FORWARD,
        header_timeout=1.0,
        body_idle_timeout=2.0,
        idle_timeout=0.0,
        max_header_bytes=2048,
        max_header_count=7,
        max_target_bytes=512,
        max_request_body=10**6,
        max_connections=9,
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("::1/128")),
        forwarded=model.Forwarded.SET,
        allow=(
            model.AllowEntry(host="*.example.com", network=None, ports=web),
            model.AllowEntry(host="a.b", network=None, ports=frozenset({8443})),
            model.AllowEntry(host="c", network=None, ports=None),
            model.AllowEntry(host=None, network=ip_network("10.0.0.0/8"), ports=web),
            model.AllowEntry(host=None, network=ip_network("10.1.2.3/32"), ports=frozenset({53})),
            model.AllowEntry(host=None, network=ip_network("fd00::/8"), ports=frozenset({443})),
            model.AllowEntry(host=None, network=ip_network("fd00::1/128"), ports=web),
            model.AllowEntry(host=None, network=ip_network("fd00::2/128"), ports=web),
        ),
    )


def test_a_listener_may_be_a_unix_socket():
    (listener,) = snapshot("listeners: [{name: a, bind: 'unix:/run/in.sock'}]\n").listeners
    assert (listener.bind, listener.port) == ("unix:/run/in.sock", 0)


def test_every_part_of_an_upstream_is_compiled():
    upstreams = snapshot(
        "upstreams:\n"
        "  - name: a\n"
        '    targets: [{url: "http://[::1]:81/", weight: 3}, {url: "HTTP://Orders.shop"}, {url: "unix:///run/a.sock"}]\n'
        "    connectTimeout: 1s\n"
        "    connectionPool: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3, idleTimeout: 0s, learnKeepAlive: false, maxConnectionAge: 1m, maxRequestsPerConnection: 4}\n"
        "    loadBalancer: {policy: ConsistentHash, hashOn: {type: Header, name: X-User}}\n"
        "    retryBudget: {percent: 5, interval: 2s, minRetryRate: {count: 0, interval: 3s}}\n"
        "  - {name: b, dns: {host: Billing.Example.com., port: 443}, loadBalancer: {policy: ConsistentHash, hashOn: {type: Cookie, name: Sid}}}\n"
        "routes: [{backendRefs: [{name: a, weight: 2}, {name: b}]}]\n"
    ).upstreams
    assert upstreams["a"] == model.Upstream(
        name="a",
        targets=(
            model.Target(host="::1", port=81, weight=3),
            model.Target(host="orders.shop", port=80),
            model.Target(host="", port=0, unix_path="/run/a.sock"),
        ),
        connect_timeout=1.0,
        pool=model.PoolLimits(
            max_connections=1,
            max_pending_requests=2,
            max_requests=3,
            idle_timeout=0.0,
            learn_keep_alive=False,
            max_connection_age=60.0,
            max_requests_per_connection=4,
        ),
        load_balancer=model.LoadBalancer(policy=model.Balancing.CONSISTENT_HASH, hash_on=model.HashOn.HEADER, hash_name="x-user"),
        retry_budget=model.RetryBudget(percent=5.0, interval=2.0, min_retries=0, min_interval=3.0),
    )
    assert upstreams["b"].dns == model.DnsName(host="billing.example.com", port=443)
    assert upstreams["b"].load_balancer.hash_name == "Sid"


def test_every_part_of_a_route_is_compiled():
    (route,) = snapshot(
        UPSTREAM + "routes:\n"
        "  - name: r\n"
        "    listener: outbound\n"
        "    hostnames: [Orders.shop, '*.X.y', '[::1]', 10.0.0.1]\n"
        "    matches:\n"
        "      - {path: {value: /a}, method: PURGE, headers: [{name: X-A, value: '1'}], queryParams: [{name: Q, value: 'a+', type: RegularExpression}]}\n"
        "    filters:\n"
        "      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-B, value: é}], add: [{name: y, value: ''}], remove: [X-C]}}\n"
        "      - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Server]}}\n"
        "      - {type: URLRewrite, urlRewrite: {hostname: '::1', path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}\n"
        "    backendRefs: [{name: app, weight: 7}]\n"
        "    timeouts: {backendRequest: 1s, responseHeader: 2s, streamIdle: 3s, tunnelIdle: 4s, upgradeHandshake: 5s, queue: 6s}\n"
        "    retry: {attempts: 3, codes: [], backoff: 1s, maxBackoff: 1s, conditions: [Timeout], methods: All, maxBufferedBody: 0}\n"
    ).routes
    assert route == model.Route(
        name="r",
        index=0,
        listener="outbound",
        hostnames=("orders.shop", "*.x.y", "::1", "10.0.0.1"),
        matches=(
            model.Match(
                path=model.PathMatch(value="/a"),
                method="PURGE",
                headers=(model.ValueMatch(name="x-a", value="1"),),
                query_params=(model.ValueMatch(name="Q", value="a+", type=model.ValueType.REGEX),),
            ),
        ),
        filters=model.Filters(
            request_headers=(model.HeaderModifier(set=((b"X-B", "é".encode()),), add=((b"y", b""),), remove=frozenset({b"x-c"})),),
            response_headers=(model.HeaderModifier(remove=frozenset({b"server"})),),
            rewrite=model.UrlRewrite(hostname="[::1]", replace_prefix_match=""),
        ),
        backends=(model.Backend(name="app", weight=7),),
        timeouts=model.Timeouts(
            backend_request=1.0, response_header=2.0, stream_idle=3.0, tunnel_idle=4.0, upgrade_handshake=5.0, queue=6.0
        ),
        retry=model.RetryPolicy(
            attempts=3,
            codes=frozenset(),
            backoff=1.0,
            max_backoff=1.0,
            conditions=frozenset({model.Condition.TIMEOUT}),
            methods=model.RetryMethods.ALL,
            max_buffered_body=0,
        ),
    )


def test_a_redirect_is_compiled():
    (route,) = snapshot(
        "routes: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: x.y, port: 8443, statusCode: 301,\n"
        "  path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}]\n"
    ).routes
    assert route.filters.redirect == model.Redirect(scheme="https", hostname="x.y", port=8443, replace_full_path="/new", status=301)


def test_telemetry_and_lifecycle_are_compiled():
    compiled = snapshot(
        "telemetry: {metrics: {buckets: [1, 2]}, accessLog: {format: None, sample: 0, always: [], redactHeaders: [X-Key], query: Keep}}\n"
        "lifecycle: {drainDelay: 0s, drainTimeout: 1m}\n"
    )
    assert compiled.telemetry == model.Telemetry(
        buckets=(1.0, 2.0),
        access_log=telemetry.AccessLog(
            format=telemetry.LogFormat.NONE,
            sample=0.0,
            always_error=False,
            always_retried=False,
            slower_than=None,
            redact_headers=frozenset({b"x-key"}),
            query=telemetry.LogQuery.KEEP,
        ),
    )
    assert compiled.lifecycle == model.Lifecycle(drain_delay=0.0, drain_timeout=60.0)


def test_shadowed_rules_and_unused_upstreams_are_warnings_not_errors():
    warnings = snapshot(
        "upstreams: [{name: a, dns: {host: a, port: 1}}, {name: b, dns: {host: b, port: 1}}]\n"
        "routes: [{name: one, backendRefs: [{name: a}]}, {name: two, backendRefs: [{name: a}]}]\n"
    ).warnings
    assert len(warnings) == 2
    assert "two" in warnings[0]
    assert "upstreams[1]: no route sends to b" in warnings[1]


ORIGINS = (
    HEAD + UPSTREAM + "listeners:\n"
    "  - {name: in,\n"
    "     port: 1}\n"
    "defaults:\n"
    "  timeouts: {queue: 1s}\n"
    "  retry:\n"
    "    attempts: 1\n"
    "routes:\n"
    "  - backendRefs: [{name: app}]\n"
    "    timeouts:\n"
    "      request: 1s\n"
    "  - matches: [{method: GET}]\n"
    "    backendRefs: [{name: app}]\n"
    "    retry:\n"
    "      codes: [500]\n"
    "  - {matches: [{method: PUT}], backendRefs: [{name: app}], retry: null}\n"
)


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("listeners[0].port", "line 6"),
        ("listeners[0].idleTimeout", "built-in"),
        ("listeners[1].port", "built-in"),
        ("upstreams[0].targets[0].url", "line 3"),
        ("upstreams[0].connectTimeout", "built-in"),
        ("routes[0]", "line 12"),
        ("routes[0].timeouts.request", "line 14"),
        ("routes[0].timeouts.queue", "defaults (line 8)"),
        ("routes[0].timeouts.streamIdle", "built-in"),
        ("routes[0].retry", "defaults (line 9)"),
        ("routes[0].retry.attempts", "defaults (line 10)"),
        ("routes[0].retry.codes", "built-in"),
        ("routes[1].retry.codes", "line 18"),
        ("routes[1].retry.attempts", "built-in"),
        ("routes[2].retry", "line 19"),
        ("routes[2].retry.attempts", "built-in"),
        ("defaults.timeouts.queue", "line 8"),
        ("nonsense[3].x", "built-in"),
        ("", "line 1"),
    ],
)
def test_explain_learns_which_line_set_a_value(path, origin):
    assert load(ORIGINS.encode()).origins.of(path) == origin


def test_a_large_json_document_says_document_instead_of_a_line():
    routes = ",".join(
        f'{{"name": "r{n}", "matches": [{{"path": {{"value": "/{n}"}}}}], "backendRefs": [{{"name": "a"}}]}}' for n in range(400)
    )
    text = f'{{"apiVersion": "outrider.dev/v1alpha1", "kind": "SidecarConfig", "upstreams": [{{"name": "a", "dns": {{"host": "a", "port": 1}}}}], "routes": [{routes}]}}'
    outcome = load(text.encode())
    assert isinstance(outcome, Loaded), outcome
    assert outcome.origins.of("routes[399].matches") == "document"
    assert outcome.origins.of("routes[399].timeouts.request") == "built-in"


def test_the_effective_document_has_every_default_filled_in():
    document = effective(loaded(UPSTREAM + "defaults: {timeouts: {request: 9s}, retry: {attempts: 1}}\n").document)
    (route,) = document["routes"]
    assert route["name"] == "routes[0]"
    assert route["timeouts"] == {
        "request": "9s",
        "backendRequest": "0s",
        "responseHeader": "1m",
        "streamIdle": "5m",
        "tunnelIdle": "1h",
        "upgradeHandshake": "10s",
        "queue": "5s",
    }
    assert route["retry"]["attempts"] == 1
    assert [listener["bind"] for listener in document["listeners"]] == ["0.0.0.0", "127.0.0.1"]
    assert document["upstreams"][0]["connectionPool"]["idleTimeout"] == "4s"
    assert document["telemetry"]["accessLog"]["always"] == ["Error", "Retried", {"slowerThan": "1s"}]


def test_a_route_that_wants_no_retries_shows_none_in_the_effective_document():
    document = effective(loaded(UPSTREAM + "defaults: {retry: {}}\nroutes: [{backendRefs: [{name: app}], retry: null}]\n").document)
    assert document["routes"][0]["retry"] is None


def test_secrets_are_masked_in_the_effective_document():
    body = UPSTREAM + (
        "routes:\n"
        "  - matches: [{headers: [{name: Authorization, value: s3cret}]}]\n"
        "    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Api-Key, value: s3cret}, {name: x, value: shown}]}}]\n"
        "    backendRefs: [{name: app}]\n"
        "tests: [{request: {url: /, headers: {authorization: s3cret}}, expect: {headers: {x-api-key: s3cret}}}]\n"
    )
    text = str(effective(loaded(body).document))
    assert "s3cret" not in text
    assert "shown" in text


def test_the_effective_document_is_itself_a_valid_document_with_the_same_meaning():
    original = loaded(ORIGINS[len(HEAD) :])
    import json

    again = load(json.dumps(effective(original.document)).encode(), revision="r1")
    assert isinstance(again, Loaded), again
    assert [(route.timeouts, route.retry, route.matches) for route in again.snapshot.routes] == [
        (route.timeouts, route.retry, route.matches) for route in original.snapshot.routes
    ]
    assert again.snapshot.listeners == original.snapshot.listeners


def test_a_packed_document_is_the_same_when_unpacked():
    document = load(ORIGINS.encode()).document
    assert Packed.of(document).document() == document


CASES = (
    UPSTREAM
    + """
defaults: {timeouts: {request: 2s}}
routes:
  - name: read
    listener: outbound
    hostnames: [orders.shop.svc]
    matches: [{path: {value: /v1}, method: GET}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}], remove: [x-c]}}]
    backendRefs: [{name: app}]
  - {name: moved, listener: inbound, filters: [{type: RequestRedirect, requestRedirect: {hostname: x}}]}
tests:
"""
)


@pytest.mark.parametrize(
    "case",
    [
        "{request: {url: 'http://orders.shop.svc/v1/x?y#z'}, expect: {route: read, upstream: app, timeouts: {request: 2s, queue: 5s}, headers: {X-A: b, x-c: null}}}",
        "{request: {url: /v1, listener: outbound, headers: {Host: Orders.shop.svc:80, x-c: z}}, expect: {route: read, headers: {x-c: null}}}",
        "{request: {url: /v1}, expect: {route: moved}}",
        "{request: {url: /v1, listener: outbound}, expect: {route: null}}",
        "{request: {url: 'http://orders.shop.svc/v1', method: POST, listener: outbound}, expect: {route: null}}",
    ],
)
def test_a_document_whose_tests_hold_is_accepted(case):
    loaded(CASES + f"  - {case}\n")


@pytest.mark.parametrize(
    ("case", "place", "said"),
    [
        ("{request: {url: /v1, listener: inbound}, expect: {route: read}}", "expect.route", '"moved" matches'),
        ("{request: {url: /v1}, expect: {route: read}}", "expect.route", "no route matches"),
        (
            "{name: mine, request: {url: /v2, listener: outbound}, expect: {route: read}}",
            "expect.route",
            "test (mine) fails: no route matches",
        ),
        ("{request: {url: /v1}, expect: {route: null}}", "expect.route", "that none matches"),
        ("{request: {url: /v1}, expect: {upstream: app}}", "expect.upstream", "it redirects"),
        ("{request: {url: /v1}, expect: {timeouts: {request: 3s}}}", "expect.timeouts.request", "has 2s"),
        (
            "{request: {url: 'http://orders.shop.svc/v1', listener: outbound}, expect: {headers: {x-a: c}}}",
            "expect.headers.x-a",
            'it is "b"',
        ),
        (
            "{request: {url: 'http://orders.shop.svc/v1', listener: outbound}, expect: {headers: {x-z: c}}}",
            "expect.headers.x-z",
            "it is absent",
        ),
    ],
)
def test_a_document_whose_own_test_fails_is_rejected_and_says_which(case, place, said):
    outcome = load((HEAD + CASES + f"  - {case}\n").encode())
    assert isinstance(outcome, Problems)
    (problem,) = outcome.problems
    assert problem.path == f"tests[0].{place}"
    assert problem.line == (HEAD + CASES).count("\n") + 1
    assert said in problem.message

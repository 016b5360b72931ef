import pytest

from sidecar.config.load import Loaded, Problems, load

HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n"
UPSTREAM = 'upstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'
ROUTE = "routes: [{backendRefs: [{name: app}], %s}]\n"


def problems(body, head=HEAD):
    outcome = load((head + body).encode())
    return outcome.problems if isinstance(outcome, Problems) else []


def only(body):
    found = problems(body)
    assert len(found) == 1, found
    return found[0].path, found[0].message


def accepted(body):
    outcome = load((HEAD + body).encode())
    assert isinstance(outcome, Loaded), outcome
    return outcome


def test_all_problems_are_reported_at_once_each_with_line_column_path_and_remedy():
    found = problems(
        "listeners:\n"
        "  - {name: in, port: 99999}\n"
        "  - {name: in, prot: 15002}\n"
        "upstreams:\n"
        "  - {name: app, targets: [{url: 127.0.0.1}], connectTimeout: 5}\n"
        "routes:\n"
        "  - backendRefs: [{name: ap}]\n"
    )
    assert [(problem.path, problem.line, problem.column) for problem in found] == [
        ("listeners[0].port", 4, 22),
        ("listeners[1].port", 5, 5),
        ("listeners[1].name", 5, 12),
        ("listeners[1].prot", 5, 16),
        ("upstreams[0].targets[0].url", 7, 33),
        ("upstreams[0].connectTimeout", 7, 62),
        ("routes[0].backendRefs[0].name", 9, 26),
    ]
    assert all("(" in problem.message and problem.message.endswith(")") for problem in found)


def test_problems_are_rendered_as_file_line_column_path_message():
    (problem,) = problems("lifecycle: {drainDelay: 5}\n")
    assert problem.render("x.yaml") == "x.yaml:3:25: lifecycle.drainDelay: 5 is not a duration (write 5s, or 5ms)"


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ("listner: []\n", "listner", "did you mean listeners?"),
        ("telemetry: {accesslog: {}}\n", "telemetry.accesslog", "did you mean accessLog?"),
        ("lifecycle: {zzz: 1}\n", "lifecycle.zzz", "known here: drainDelay, drainTimeout"),
        (UPSTREAM + ROUTE % "timeout: {}", "routes[0].timeout", "did you mean timeouts?"),
        ("listeners: [{name: a, port: 1, mode: reverse}]\n", "listeners[0].mode", "did you mean Reverse?"),
        ('listeners: [{name: a, port: "80"}]\n', "listeners[0].port", "without quotes"),
        (UPSTREAM.replace("}]}", "}], connectionPool: {learnKeepAlive: yes}}"), "upstreams[0].connectionPool.learnKeepAlive", "write true"),
        ("listeners: {name: a}\n", "listeners", "a mapping is not a list"),
        ("telemetry: []\n", "telemetry", "a list is not a mapping"),
        ("telemetry: {accessLog: {sample: 1.5}}\n", "telemetry.accessLog.sample", "from 0 to 1"),
        ("listeners: [{port: 1}]\n", "listeners[0].name", "is required"),
        ("listeners: [{name: 'a b', port: 1}]\n", "listeners[0].name", "letters, digits"),
        (UPSTREAM + ROUTE % "timeouts: {request: 1d}", "routes[0].timeouts.request", "250ms, 10s or 1h30m"),
        ("listeners: [{name: a, port: 1, maxHeaderBytes: 32KB}]\n", "listeners[0].maxHeaderBytes", "64Ki"),
    ],
)
def test_typos_and_wrong_types_are_explained(body, path, said):
    where, message = only(body)
    assert where == path
    assert said in message


def test_fields_at_their_defaults_and_null_are_fine():
    accepted(
        "listeners: [{name: a, port: 1, tls: null, trustedProxies: null}]\n"
        "upstreams:\n"
        '  - {name: app, targets: [{url: "http://127.0.0.1:8000"}], client: Native, protocol: HTTP1, proxyURL: null,\n'
        "     tls: null,\n"
        "     outlierDetection: null, circuitBreaker: null, healthCheck: null, service: null, retryBudget: null}\n"
        "telemetry: {tracing: {exporter: None, endpoint: null, sampler: ParentBasedTraceIdRatio, ratio: 0.01, propagators: [tracecontext, baggage]}}\n"
        "routes:\ntests:\n"
    )


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ("listeners: []\n", "listeners", "no listener"),
        ("listeners: [{name: a}]\n", "listeners[0].port", "required"),
        ("listeners: [{name: a, port: 1, bind: 'unix:/run/x'}]\n", "listeners[0].port", "no port"),
        ("listeners: [{name: a, bind: 'unix:x'}]\n", "listeners[0].bind", "absolute"),
        ("listeners: [{name: a, port: 1, bind: localhost}]\n", "listeners[0].bind", "not an address"),
        ("listeners: [{name: a, port: 1}, {name: b, port: 1, bind: 127.0.0.1}]\n", "listeners[1].port", "taken by listeners[0]"),
        ("listeners: [{name: a, port: 1, bind: '::'}, {name: b, port: 1}]\n", "listeners[1].port", "taken by listeners[0]"),
        ("listeners: [{name: a, bind: 'unix:/x'}, {name: b, bind: 'unix:/x'}]\n", "listeners[1].bind", "taken by listeners[0]"),
        ("listeners: [{name: a, port: 1, trustedProxies: [10.0.0.1/8]}]\n", "listeners[0].trustedProxies[0]", "write 10.0.0.0/8"),
        ("listeners: [{name: a, port: 1, maxHeaderBytes: 100}]\n", "listeners[0].maxHeaderBytes", "1Ki to 1Mi"),
        ("listeners: [{name: a, port: 1, maxTargetBytes: 64Ki}]\n", "listeners[0].maxTargetBytes", "part of the head"),
        ("listeners: [{name: a, port: 1, allow: [x.com]}]\n", "listeners[0].allow", "mode Forward"),
        ("listeners: [{name: a, port: 1, mode: Forward, allow: ['x.com:0']}]\n", "listeners[0].allow[0]", "not a port"),
        ("listeners: [{name: a, port: 1, mode: Forward, allow: ['http://x.com']}]\n", "listeners[0].allow[0]", "not a port"),
        ("upstreams: [{name: forward, dns: {host: a, port: 1}}]\n", "upstreams[0].name", "own upstream"),
        ("upstreams: [{name: a}]\n", "upstreams[0]", "exactly one of targets, service and dns"),
        ('upstreams: [{name: a, dns: {host: a, port: 1}, targets: [{url: "http://a"}]}]\n', "upstreams[0].dns", "exclude each other"),
        ("upstreams: [{name: a, dns: {host: a, port: 1}, service: {name: a, port: 1}}]\n", "upstreams[0].dns", "service and dns exclude each other"),
        ("upstreams: [{name: a, targets: []}]\n", "upstreams[0].targets", "no target"),
        ('upstreams: [{name: a, targets: [{url: "http://a", weight: 0}]}]\n', "upstreams[0].targets", "every weight is 0"),
        ('upstreams: [{name: a, targets: [{url: "http://a/b"}]}]\n', "upstreams[0].targets[0].url", "URLRewrite"),
        ('upstreams: [{name: a, targets: [{url: "http://u:p@a"}]}]\n', "upstreams[0].targets[0].url", "credentials"),
        ('upstreams: [{name: a, targets: [{url: "http://a:99999"}]}]\n', "upstreams[0].targets[0].url", "not a port"),
        ('upstreams: [{name: a, targets: [{url: "unix://x"}]}]\n', "upstreams[0].targets[0].url", "absolute"),
        ("upstreams: [{name: a, dns: {host: 'a:80', port: 1}}]\n", "upstreams[0].dns.host", "without a port"),
        ("upstreams: [{name: a, dns: {host: 1.2.3, port: 1}}]\n", "upstreams[0].dns.host", "four numbers"),
        (UPSTREAM.replace("}]}", "}], loadBalancer: {policy: ConsistentHash}}"), "upstreams[0].loadBalancer", "what to hash"),
        (UPSTREAM.replace("}]}", "}], loadBalancer: {hashOn: {type: Path}}}"), "upstreams[0].loadBalancer.hashOn", "ConsistentHash"),
        (UPSTREAM.replace("}]}", "}], loadBalancer: {policy: ConsistentHash, hashOn: {type: Header}}}"), "upstreams[0].loadBalancer.hashOn", "needs a name"),
        (UPSTREAM.replace("}]}", "}], loadBalancer: {policy: ConsistentHash, hashOn: {type: Path, name: x}}}"), "upstreams[0].loadBalancer.hashOn.name", "no name"),
        (UPSTREAM.replace("}]}", "}], retryBudget: {interval: 0s}}"), "upstreams[0].retryBudget.interval", "cannot be 0s"),
        (UPSTREAM.replace("}]}", "}], retryBudget: {percent: 101}}"), "upstreams[0].retryBudget.percent", "from 0 to 100"),
        ("upstreams: [{name: a, dns: {host: a, port: 1}}, {name: b, dns: {host: a, port: 1}}]\n", "routes", "more than one upstream"),
        (UPSTREAM + ROUTE % "name: 'routes[1]'", "routes[0].name", "unnamed route in another place"),
        (UPSTREAM + "routes: [{name: a}]\n", "routes[0]", "goes nowhere"),
        (UPSTREAM + ROUTE % "listener: x", "routes[0].listener", "inbound, outbound"),
        (UPSTREAM + ROUTE % "hostnames: ['*']", "routes[0].hostnames[0]", "leave hostnames out"),
        (UPSTREAM + ROUTE % "hostnames: ['a.*.b']", "routes[0].hostnames[0]", "whole first label"),
        (UPSTREAM + ROUTE % "hostnames: ['a:80']", "routes[0].hostnames[0]", "without a port"),
        (UPSTREAM + ROUTE % "matches: [{path: {value: a}}]", "routes[0].matches[0].path.value", 'write "/a"'),
        (UPSTREAM + ROUTE % "matches: [{path: {value: '/a?b'}}]", "routes[0].matches[0].path.value", "without ?"),
        (UPSTREAM + ROUTE % "matches: [{path: {value: '/%zz'}}]", "routes[0].matches[0].path.value", "%25"),
        (UPSTREAM + ROUTE % "matches: [{path: {type: RegularExpression, value: '(a'}}]", "routes[0].matches[0].path.value", "RE2"),
        (UPSTREAM + ROUTE % "matches: [{path: {type: RegularExpression, value: '(?=a)'}}]", "routes[0].matches[0].path.value", "look-around"),
        (UPSTREAM + ROUTE % "matches: [{path: {type: RegularExpression, value: '((a{100}){100}){100}'}}]", "routes[0].matches[0].path.value", "RE2"),
        (UPSTREAM + ROUTE % "matches: [{method: get}]", "routes[0].matches[0].method", "write GET"),
        (UPSTREAM + ROUTE % "matches: [{headers: [{name: 'a b', value: x}]}]", "routes[0].matches[0].headers[0].name", "header name"),
        (UPSTREAM + ROUTE % "matches: [{headers: [{name: A, value: x}, {name: a, value: y}]}]", "routes[0].matches[0].headers[1].name", "already"),
        (UPSTREAM + ROUTE % "matches: [{queryParams: [{name: '', value: x}]}]", "routes[0].matches[0].queryParams[0].name", "empty"),
        (UPSTREAM + ROUTE % "timeouts: {request: 1s, backendRequest: 2s}", "routes[0].timeouts.backendRequest", "longer than request"),
        (UPSTREAM + "defaults: {timeouts: {request: 1s}}\n" + ROUTE % "timeouts: {backendRequest: 2s}", "routes[0].timeouts.backendRequest", "longer"),
        (UPSTREAM + "defaults: {timeouts: {request: 1s, backendRequest: 2s}}\n", "defaults.timeouts.backendRequest", "longer"),
        (UPSTREAM + ROUTE % "retry: {backoff: 1s}", "routes[0].retry.backoff", "longer than maxBackoff"),
        (UPSTREAM + ROUTE % "retry: {codes: [200]}", "routes[0].retry.codes[0]", "from 400 to 599"),
        (UPSTREAM + ROUTE % "retry: {codes: [502, 502]}", "routes[0].retry.codes", "twice"),
        (UPSTREAM + ROUTE % "retry: {maxBufferedBody: 17Mi}", "routes[0].retry.maxBufferedBody", "16Mi"),
        ("defaults: {retry: {maxBackoff: 1ms}}\n", "defaults.retry.maxBackoff", "longer than maxBackoff"),
        ("telemetry: {metrics: {buckets: [1, 0.5]}}\n", "telemetry.metrics.buckets[1]", "ascending"),
        ("telemetry: {metrics: {buckets: []}}\n", "telemetry.metrics.buckets", "0 buckets"),
        ("telemetry: {metrics: {buckets: [0]}}\n", "telemetry.metrics.buckets[0]", "above 0"),
        ("telemetry: {accessLog: {redactHeaders: ['a b']}}\n", "telemetry.accessLog.redactHeaders[0]", "header name"),
        ("telemetry: {accessLog: {always: [{slowerThan: 1s}, {slowerThan: 2s}]}}\n", "telemetry.accessLog.always[1]", "second slowerThan"),
        (UPSTREAM + "tests: [{request: {url: x}, expect: {route: null}}]\n", "tests[0].request.url", "be tested"),
        (UPSTREAM + "tests: [{request: {url: /}, expect: {}}]\n", "tests[0].expect", "expects nothing"),
        (UPSTREAM + "tests: [{request: {url: /}, expect: {route: x}}]\n", "tests[0].expect.route", "no route"),
    ],
)  # fmt: skip
def test_rules_between_fields_are_checked(body, path, said):
    where, message = only(body)
    assert where == path
    assert said in message


FILTER = UPSTREAM + ROUTE % "%s, filters: [%s]"


@pytest.mark.parametrize(
    ("filters", "path", "said"),
    [
        ("{type: URLRewrite}", "filters[0]", "write urlRewrite"),
        ("{type: URLRewrite, urlRewrite: {}}", "filters[0].urlRewrite", "changes nothing"),
        ("{type: URLRewrite, urlRewrite: {hostname: a}, requestRedirect: {}}", "filters[0].requestRedirect", "does not belong"),
        ("{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}", "filters[1].type", "merge"),
        ("{type: URLRewrite, urlRewrite: {hostname: 'a:1'}}", "filters[0].urlRewrite.hostname", "without a port"),
        ("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}", "filters[0].urlRewrite.path", "replaceFullPath"),
        ("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: a}}}", "filters[0].urlRewrite.path.replaceFullPath", "slash"),
        ("{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}", "filters[0].urlRewrite.path.type", "PathPrefix"),
        ("{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Connection, value: x}]}}", "filters[0].requestHeaderModifier.set[0].name", "framing"),
        ("{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: content_length, value: x}]}}", "filters[0].requestHeaderModifier.add[0].name", "framing"),
        ("{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Host]}}", "filters[0].requestHeaderModifier.remove[0]", "URLRewrite"),
        ("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /\u00e9}}}", "filters[0].urlRewrite.path.replaceFullPath", 'write "/%C3%A9"'),
        ('{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: "x\\r\\ny: z"}]}}', "filters[0].requestHeaderModifier.set[0].value", "line breaks"),
        ("{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: ' x'}]}}", "filters[0].requestHeaderModifier.set[0].value", "blank"),
        ("{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: x}, {name: A, value: y}]}}", "filters[0].responseHeaderModifier.set[1].name", "twice"),
        ("{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: x}], remove: [a]}}", "filters[0].responseHeaderModifier.remove[0]", "written"),
        ("{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Trailer]}}", "filters[0].responseHeaderModifier.remove[0]", "framing"),
        ("{type: RequestRedirect, requestRedirect: {}}", "backendRefs", "remove backendRefs"),
    ],
)  # fmt: skip
def test_filters_are_checked(filters, path, said):
    where, message = only(FILTER % ("matches: [{path: {type: Exact, value: /x}}]", filters))
    assert where == f"routes[0].{path}"
    assert said in message


def test_a_redirect_knows_only_the_statuses_of_redirects():
    body = "routes: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}]\n"
    assert "301 or 302 or 303 or 307 or 308" in only(body)[1]
    accepted(body.replace("200", "308"))


def test_rewrite_and_redirect_exclude_each_other():
    body = "routes: [{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: a}}]}]\n"
    assert only(body) == ("routes[0].filters", "URLRewrite and RequestRedirect exclude each other (keep one)")


@pytest.mark.parametrize(
    "clocks", ["request: 1s, backendRequest: 1s", "request: 0s, backendRequest: 9s", "request: 1s, backendRequest: 0s"]
)
def test_an_attempt_may_take_as_long_as_the_request_or_either_be_off(clocks):
    accepted(UPSTREAM + ROUTE % f"timeouts: {{{clocks}}}")


def test_one_wrong_name_does_not_make_every_reference_to_it_wrong():
    assert only("upstreams: [{name: 'a b', dns: {host: a, port: 1}}]\nroutes: [{backendRefs: [{name: app}]}]\n")[0] == "upstreams[0].name"


def test_null_means_left_out_where_a_field_has_a_default():
    loaded = accepted(
        UPSTREAM + "routes: [{filters: , hostnames: ~, timeouts: {request: null}, backendRefs: [{name: app, weight: null}]}]\n"
    )
    assert loaded.snapshot.routes[0].backends[0].weight == 1


@pytest.mark.parametrize(
    ("head", "path"), [("", "apiVersion"), (HEAD.replace("v1alpha1", "v2"), "apiVersion"), (HEAD.replace("SidecarConfig", "Pod"), "kind")]
)
def test_another_api_version_or_kind_is_an_error(head, path):
    assert path in [problem.path for problem in problems(UPSTREAM, head=head)]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing\n", b"---\n", b"null"])
def test_an_empty_document_is_called_empty(data):
    assert "empty" in load(data).problems[0].message


@pytest.mark.parametrize("data", [b"5", b"just text", b"[]", b'"x"', b"true"])
def test_a_document_that_is_no_mapping_is_refused(data):
    assert "is not a mapping" in load(data).problems[0].message


def test_thousands_of_mistakes_are_capped_and_counted():
    found = problems("upstreams:\n" + "".join(f"  - {{nme: u{n}}}\n" for n in range(1000)))
    assert len(found) == 201
    assert "more problems, not shown" in found[-1].message


def test_json_problems_have_places_too():
    text = '{"apiVersion": "outrider.dev/v1alpha1",\n "kind": "SidecarConfig",\n "lifecycle": {"drainDelay": 7}}'
    (problem,) = load(text.encode()).problems
    assert (problem.path, problem.line) == ("lifecycle.drainDelay", 3)


def test_problems_of_json_that_yaml_cannot_read_are_reported_without_places():
    text = '{"apiVersion": "outrider.dev/v1alpha1", "kind": "SidecarConfig", "x\\ud83d\\ude00": 1}'
    (problem,) = load(text.encode()).problems
    assert (problem.line, problem.column) == (1, 1)
    assert "unknown field" in problem.message

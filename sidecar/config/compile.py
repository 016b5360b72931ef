"""A valid document to the snapshot that the hot path reads: defaults merged, text turned into numbers, short forms expanded.

The implied route of a short document (no `routes`, exactly one upstream) is called `routes[0]` and takes everything,
on every listener. A Forward listener that has an `allow` list is left out, because a route comes before `allow`
(product.md 3.1) and the list would mean nothing; then there is one implied route for each other listener.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from msgspec import UNSET

from sidecar.config import values
from sidecar.config.compile_health import circuit_breaking, health_check, outlier_detection
from sidecar.config.compile_telemetry import telemetry
from sidecar.config.compile_tls import listener_tls, upstream_tls
from sidecar.config.origins import Origins
from sidecar.config.rules_ends import bind_of
from sidecar.model import snapshot as model
from sidecar.model.document import (
    BackendRefDoc,
    Document,
    FilterDoc,
    HeaderModifierDoc,
    MatchDoc,
    MirrorDoc,
    PathModifierDoc,
    RedirectDoc,
    RetryDoc,
    RouteDoc,
    TimeoutsDoc,
    UrlRewriteDoc,
    ValueMatchDoc,
)
from sidecar.model.document_ends import (
    ConnectionPoolDoc,
    ListenerDoc,
    LoadBalancerDoc,
    RetryBudgetDoc,
    ServiceDoc,
    UpstreamDoc,
    UpstreamTlsDoc,
)
from sidecar.model.quantity import parse_size
from sidecar.model.snapshot import Snapshot
from sidecar.policy.slices import Slices, at_once

__all__ = ["Origins", "compile_document", "compile_in_slices", "implied_routes"]


def compile_document(document: Document, *, revision: str = "", digest: str = "", warnings: tuple[str, ...] = ()) -> Snapshot:
    """The snapshot of a document that `validate` found right."""
    return at_once(compile_in_slices(document, document.routes, revision=revision, digest=digest, warnings=warnings))


def compile_in_slices(
    document: Document, routes: Iterable[RouteDoc], *, revision: str, digest: str, warnings: tuple[str, ...]
) -> Slices[Snapshot]:
    """The same in small steps.

    `routes` take the place of the document's own, so that they may be decoded slice by slice too.
    """
    defaults = document.defaults
    retry = None if defaults.retry is None else _retry(defaults.retry)
    compiled: list[model.Route] = []
    for index, route in enumerate(routes):
        compiled.append(_route(route, index, defaults.timeouts, retry))
        yield
    if not compiled:
        implied = implied_routes(document)
        compiled = [_route(route, index, defaults.timeouts, retry) for index, route in enumerate(implied)]
    upstreams: dict[str, model.Upstream] = {}
    for upstream in document.upstreams:
        upstreams[upstream.name] = _upstream(upstream)
        yield
    return Snapshot(
        revision=revision,
        hash=digest,
        listeners=tuple(_listener(listener) for listener in document.listeners),
        upstreams=upstreams,
        routes=tuple(compiled),
        default_timeouts=_timeouts(TimeoutsDoc(), defaults.timeouts),
        default_retry=retry,
        telemetry=telemetry(document.telemetry),
        lifecycle=model.Lifecycle(
            drain_delay=values.seconds(document.lifecycle.drain_delay), drain_timeout=values.seconds(document.lifecycle.drain_timeout)
        ),
        warnings=warnings,
    )


def implied_routes(document: Document) -> list[RouteDoc]:
    """What a document without `routes` means; see the top of this file."""
    if document.routes or len(document.upstreams) != 1:
        return []
    backends = [BackendRefDoc(name=document.upstreams[0].name)]
    if not any(listener.allow for listener in document.listeners):
        return [RouteDoc(backend_refs=backends)]
    return [RouteDoc(listener=listener.name, backend_refs=backends) for listener in document.listeners if not listener.allow]


def _listener(doc: ListenerDoc) -> model.Listener:
    return model.Listener(
        name=doc.name,
        port=0 if doc.port is UNSET else doc.port,
        bind=values.bind_address(bind_of(doc)),
        mode=doc.mode,
        header_timeout=values.seconds(doc.header_timeout),
        body_idle_timeout=values.seconds(doc.body_idle_timeout),
        idle_timeout=values.seconds(doc.idle_timeout),
        max_header_bytes=parse_size(doc.max_header_bytes),
        max_header_count=doc.max_header_count,
        max_target_bytes=parse_size(doc.max_target_bytes),
        max_request_body=parse_size(doc.max_request_body),
        max_connections=doc.max_connections,
        trusted_proxies=None if doc.trusted_proxies is None else tuple(map(values.network, doc.trusted_proxies)),
        forwarded=doc.forwarded,
        tls=None if doc.tls is None else listener_tls(doc.tls),
        allow=tuple(map(values.allow_entry, doc.allow)),
    )


def _upstream(doc: UpstreamDoc) -> model.Upstream:
    targets = tuple(values.make_target(target.url, target.weight) for target in doc.targets or ())
    tls = doc.tls
    if tls is None and any(target.tls for target in targets):
        tls = UpstreamTlsDoc()
    return model.Upstream(
        name=doc.name,
        targets=targets,
        service=None if doc.service is None else _service(doc.service),
        dns=None if doc.dns is None else model.DnsName(host=values.hostname(doc.dns.host), port=doc.dns.port),
        client=doc.client,
        protocol=doc.protocol,
        tls=None if tls is None else upstream_tls(tls),
        proxy=None if doc.proxy_url is None else values.proxy(doc.proxy_url),
        connect_timeout=values.seconds(doc.connect_timeout),
        pool=_pool(doc.connection_pool),
        load_balancer=_balancer(doc.load_balancer),
        retry_budget=_budget(doc.retry_budget),
        outlier_detection=None if doc.outlier_detection is None else outlier_detection(doc.outlier_detection),
        circuit_breaker=None if doc.circuit_breaker is None else circuit_breaking(doc.circuit_breaker),
        health_check=None if doc.health_check is None else health_check(doc.health_check),
    )


def _service(doc: ServiceDoc) -> model.ServiceName:
    return model.ServiceName(name=doc.name, namespace=doc.namespace, port=doc.port)


def _pool(doc: ConnectionPoolDoc) -> model.PoolLimits:
    return model.PoolLimits(
        max_connections=doc.max_connections,
        max_pending_requests=doc.max_pending_requests,
        max_requests=doc.max_requests,
        idle_timeout=values.seconds(doc.idle_timeout),
        learn_keep_alive=doc.learn_keep_alive,
        max_connection_age=values.seconds(doc.max_connection_age),
        max_requests_per_connection=doc.max_requests_per_connection,
    )


def _balancer(doc: LoadBalancerDoc) -> model.LoadBalancer:
    hash_on = doc.hash_on
    if hash_on is None:
        return model.LoadBalancer(policy=doc.policy)
    name = hash_on.name or ""
    return model.LoadBalancer(
        policy=doc.policy, hash_on=hash_on.type, hash_name=name.lower() if hash_on.type is model.HashOn.HEADER else name
    )


def _budget(doc: RetryBudgetDoc) -> model.RetryBudget:
    rate = doc.min_retry_rate
    return model.RetryBudget(
        percent=float(doc.percent),
        interval=values.seconds(doc.interval),
        min_retries=rate.count,
        min_interval=values.seconds(rate.interval),
    )


def _route(doc: RouteDoc, index: int, defaults: TimeoutsDoc, default_retry: model.RetryPolicy | None) -> model.Route:
    return model.Route(
        name=f"routes[{index}]" if doc.name is UNSET else doc.name,
        index=index,
        listener=doc.listener,
        hostnames=tuple(map(values.route_hostname, doc.hostnames)),
        matches=tuple(map(_match, doc.matches)) or _EVERYTHING,
        filters=_filters(doc.filters) if doc.filters else _NO_FILTERS,
        backends=tuple(model.Backend(name=ref.name, weight=ref.weight) for ref in doc.backend_refs),
        timeouts=_timeouts(doc.timeouts, defaults),
        retry=default_retry if doc.retry is UNSET else None if doc.retry is None else _retry(doc.retry),
    )


_EVERYTHING: Final = (model.Match(),)
_NO_FILTERS: Final = model.Filters()
_ANY_PATH: Final = model.PathMatch()


def _match(doc: MatchDoc) -> model.Match:
    path = doc.path
    return model.Match(
        path=_ANY_PATH if path.type is model.PathType.PREFIX and path.value == "/" else model.PathMatch(type=path.type, value=path.value),
        method=doc.method,
        headers=tuple(_condition(header, header.name.lower()) for header in doc.headers),
        query_params=tuple(_condition(param, param.name) for param in doc.query_params),
    )


def _condition(doc: ValueMatchDoc, name: str) -> model.ValueMatch:
    return model.ValueMatch(name=name, value=doc.value, type=doc.type)


def _filters(docs: list[FilterDoc]) -> model.Filters:
    return model.Filters(
        request_headers=tuple(_modifier(doc.request_header_modifier) for doc in docs if doc.request_header_modifier is not None),
        response_headers=tuple(_modifier(doc.response_header_modifier) for doc in docs if doc.response_header_modifier is not None),
        rewrite=next((_rewrite(doc.url_rewrite) for doc in docs if doc.url_rewrite is not None), None),
        redirect=next((_redirect(doc.request_redirect) for doc in docs if doc.request_redirect is not None), None),
        mirrors=tuple(_mirror(doc.request_mirror) for doc in docs if doc.request_mirror is not None),
    )


def _modifier(doc: HeaderModifierDoc) -> model.HeaderModifier:
    return model.HeaderModifier(
        set=tuple((values.header_name(header.name), values.header_value(header.value)) for header in doc.set),
        add=tuple((values.header_name(header.name), values.header_value(header.value)) for header in doc.add),
        remove=frozenset(values.header_name(name).lower() for name in doc.remove),
    )


def _mirror(doc: MirrorDoc) -> model.Mirror:
    return model.Mirror(name=doc.backend_ref.name, share=doc.percent / 100)


def _paths(doc: PathModifierDoc | None) -> dict[str, Any]:
    return {} if doc is None else {"replace_full_path": doc.replace_full_path, "replace_prefix_match": doc.replace_prefix_match}


def _rewrite(doc: UrlRewriteDoc) -> model.UrlRewrite:
    host = None if doc.hostname is None else values.hostname(doc.hostname)
    return model.UrlRewrite(hostname=f"[{host}]" if host and ":" in host else host, **_paths(doc.path))


def _redirect(doc: RedirectDoc) -> model.Redirect:
    hostname = None if doc.hostname is None else values.hostname(doc.hostname)
    return model.Redirect(scheme=doc.scheme, hostname=hostname, port=doc.port, status=doc.status_code, **_paths(doc.path))


def _timeouts(own: TimeoutsDoc, defaults: TimeoutsDoc) -> model.Timeouts:
    """A route's clocks merged with `defaults`, key by key. Routes with the same clocks share one object."""
    return _shared_timeouts(*(_clock(getattr(own, name), getattr(defaults, name)) for name in TimeoutsDoc.__struct_fields__))


def _clock(own: Any, default: Any) -> str | None:
    return own if own is not UNSET else default if default is not UNSET else None


@lru_cache(maxsize=256)
def _shared_timeouts(*clocks: str | None) -> model.Timeouts:
    given = {name: values.seconds(text) for name, text in zip(TimeoutsDoc.__struct_fields__, clocks, strict=True) if text is not None}
    return model.Timeouts(**given)


def _retry(doc: RetryDoc) -> model.RetryPolicy:
    return model.RetryPolicy(
        attempts=doc.attempts,
        codes=frozenset(doc.codes),
        backoff=values.seconds(doc.backoff),
        max_backoff=values.seconds(doc.max_backoff),
        conditions=frozenset(doc.conditions),
        methods=doc.methods,
        max_buffered_body=parse_size(doc.max_buffered_body),
    )

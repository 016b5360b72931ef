"""`telemetry.tracing` and the `OTEL_*` variables made one: the document where it speaks, else the environment, else defaults.

OTEL_SDK_DISABLED is the exception: it turns tracing off whatever the document says, for that is what it is there for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from msgspec import Struct

from sidecar.model.telemetry import Exporter, Propagator, Sampler, Tracing

Number = TypeVar("Number", int, float)
Warn = Callable[[str], None]

TRACES_PATH: Final = "/v1/traces"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
"""Methods that spans name; others are `_OTHER` (semantic conventions, `http.request.method`)."""
DEFAULT_RATIO: Final = 0.01
DEFAULT_PROPAGATORS: Final = (Propagator.TRACE_CONTEXT, Propagator.BAGGAGE)
DEFAULT_QUEUE: Final = 2048
DEFAULT_BATCH: Final = 128
"""Spans. The SDK's own 512 take 26 ms to encode, in which the event loop gets the interpreter only now and then."""
DEFAULT_DELAY_MS: Final = 1000.0
_MAX_QUEUE: Final = 65536
_MAX_DELAY_MS: Final = 60_000.0


class Kind(StrEnum):
    """How spans leave the process."""

    HTTP = "otlp_proto_http"
    GRPC = "otlp_proto_grpc"
    CONSOLE = "console"


class Settings(Struct, frozen=True, kw_only=True):
    """What is in force. Two that are equal need no new pipeline."""

    kind: Kind
    endpoint: str | None
    """URL that the exporter is given; None: it reads OTEL_EXPORTER_OTLP_* itself."""
    sampler: str
    """As the document or the environment names it."""
    ratio: float
    parent_based: bool
    propagators: tuple[Propagator, ...] = DEFAULT_PROPAGATORS
    from_document: bool = True
    """The document asks for spans; else the environment does."""
    queue: int = DEFAULT_QUEUE
    batch: int = DEFAULT_BATCH
    delay: float = DEFAULT_DELAY_MS / 1000
    """Seconds that a span may wait for others to leave with."""
    methods: frozenset[str] = frozenset(METHODS)
    excluded: str = ""
    """A regular expression; "" excludes nothing."""


def resolve(tracing: Tracing, environment: Mapping[str, str], warn: Warn) -> Settings | None:
    """What holds; None: tracing is off. `warn` hears of variables that make no sense."""
    env = _Environment(environment, warn)
    if env.text("OTEL_SDK_DISABLED").lower() == "true":
        return None
    kind = _document_kind(tracing.exporter)
    from_document = kind is not None
    if kind is None:
        kind = _environment_kind(env)
    if kind is None:
        return None
    sampler, ratio, parent_based = _sampler(tracing, env)
    queue = max(1, min(env.number("OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE, int), _MAX_QUEUE))
    return Settings(
        kind=kind,
        endpoint=None if tracing.endpoint is None else _endpoint(tracing.endpoint, kind),
        sampler=sampler,
        ratio=ratio,
        parent_based=parent_based,
        propagators=_propagators(tracing, env),
        from_document=from_document,
        queue=queue,
        batch=max(1, min(env.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH, int), queue)),
        delay=min(max(env.number("OTEL_BSP_SCHEDULE_DELAY", DEFAULT_DELAY_MS, float), 1.0), _MAX_DELAY_MS) / 1000,
        methods=frozenset(env.words("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")) or frozenset(METHODS),
        excluded=_excluded(env),
    )


def shown(settings: Settings | None) -> dict[str, Any]:
    """`telemetry.tracing` as it is in force, for `GET /config`: what the environment has decided included."""
    if settings is None:
        return {"exporter": Exporter.NONE.value}
    kinds = {Kind.HTTP: Exporter.OTLP.value, Kind.GRPC: Exporter.OTLP_GRPC.value, Kind.CONSOLE: "console"}
    endpoint = settings.endpoint
    if endpoint is not None and settings.kind is Kind.HTTP:
        endpoint = endpoint.removesuffix(TRACES_PATH)
    return {
        "exporter": kinds[settings.kind],
        **({} if endpoint is None else {"endpoint": endpoint}),
        "sampler": settings.sampler,
        "ratio": settings.ratio,
        "propagators": list(settings.propagators),
    }


class _Environment:
    """Variables by OpenTelemetry's rules: an empty one is not set, one that cannot be read is warned about and ignored."""

    def __init__(self, variables: Mapping[str, str], warn: Warn) -> None:
        self._variables = variables
        self.warn = warn

    def text(self, *names: str) -> str:
        """The first of these that is set, or ""."""
        return next((value for name in names if (value := self._variables.get(name, "").strip())), "")

    def words(self, name: str) -> list[str]:
        """A list with commas."""
        return [word for part in self.text(name).split(",") if (word := part.strip())]

    def number(self, name: str, default: Number, read: Callable[[str], Number]) -> Number:
        """A number, at least 0."""
        text = self.text(name)
        try:
            value = read(text) if text else default
        except ValueError:
            value = -1
        if value >= 0:
            return value
        self.warn(f"{name}={text} is not a number that makes sense here; {default:g} is used")
        return default


def _document_kind(exporter: Exporter) -> Kind | None:
    return {Exporter.OTLP: Kind.HTTP, Exporter.OTLP_GRPC: Kind.GRPC}.get(exporter)


def _environment_kind(env: _Environment) -> Kind | None:
    """`exporter: None` with an endpoint in the environment means OTLP (product.md 3.8); OTEL_TRACES_EXPORTER says it aloud."""
    name = env.text("OTEL_TRACES_EXPORTER").lower()
    if name == "console":
        return Kind.CONSOLE
    if name not in ("", "otlp", "none"):
        env.warn(f"OTEL_TRACES_EXPORTER={name} is not known here (otlp, console, none); no spans are exported")
    wanted = name == "otlp" or (not name and env.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))
    if not wanted:
        return None
    protocol = env.text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL").lower()
    if protocol == "grpc":
        return Kind.GRPC
    if protocol not in ("", "http/protobuf"):
        env.warn(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not known here (http/protobuf, grpc); http/protobuf is used")
    return Kind.HTTP


def _endpoint(base: str, kind: Kind) -> str:
    """An exporter takes an endpoint that it is given as it stands (OTLP exporter specification)."""
    return base.rstrip("/") + TRACES_PATH if kind is Kind.HTTP else base


_ENVIRONMENT_SAMPLERS: Final = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
"""OTEL_TRACES_SAMPLER: ratio (None: OTEL_TRACES_SAMPLER_ARG) and whether the caller decides where there is one."""


def _sampler(tracing: Tracing, env: _Environment) -> tuple[str, float, bool]:
    """(name, ratio, parent based). A ratio of the document counts for the samplers of both."""
    if tracing.sampler is None and (name := env.text("OTEL_TRACES_SAMPLER").lower()):
        found = _ENVIRONMENT_SAMPLERS.get(name)
        if found is not None:
            ratio, parent_based = found
            return name, _ratio(tracing, env, 1.0) if ratio is None else ratio, parent_based
        env.warn(f"OTEL_TRACES_SAMPLER={name} is not known here ({', '.join(_ENVIRONMENT_SAMPLERS)})")
    sampler = tracing.sampler or Sampler.PARENT_RATIO
    if sampler is Sampler.ALWAYS_ON or sampler is Sampler.ALWAYS_OFF:
        return sampler.value, 1.0 if sampler is Sampler.ALWAYS_ON else 0.0, False
    return sampler.value, _ratio(tracing, env, DEFAULT_RATIO), sampler is Sampler.PARENT_RATIO


def _ratio(tracing: Tracing, env: _Environment, default: float) -> float:
    if tracing.ratio is not None:
        return tracing.ratio
    ratio = env.number("OTEL_TRACES_SAMPLER_ARG", default, float)
    if ratio <= 1.0:
        return ratio
    env.warn(f"OTEL_TRACES_SAMPLER_ARG={ratio:g} is not between 0 and 1; {default:g} is used")
    return default


def _propagators(tracing: Tracing, env: _Environment) -> tuple[Propagator, ...]:
    if tracing.propagators is not None:
        return tracing.propagators
    known = {one.value: one for one in Propagator}
    words = list(dict.fromkeys(env.words("OTEL_PROPAGATORS")))
    if not words:
        return DEFAULT_PROPAGATORS
    for word in words:
        if word not in known and word != "none":
            env.warn(f"OTEL_PROPAGATORS: {word} is not known here ({', '.join(known)}); it is left out")
    return tuple(known[word] for word in words if word in known)


def _excluded(env: _Environment) -> str:
    """OTEL_PYTHON_EXCLUDED_URLS: regular expressions, of which one must be found in the URL."""
    patterns = env.words("OTEL_PYTHON_EXCLUDED_URLS")
    for pattern in list(patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            env.warn(f"OTEL_PYTHON_EXCLUDED_URLS: {pattern} is not a regular expression ({error}); it is left out")
            patterns.remove(pattern)
    return "|".join(f"(?:{pattern})" for pattern in patterns)

"""What a pod asks of its sidecar: the annotations of interface.md section 7 over the installation's defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import yaml

from sidecar.injector.amount import amount

PREFIX: Final = "outrider.dev/"
INJECT: Final = PREFIX + "inject"
INJECTED: Final = PREFIX + "injected"
REFUSED: Final = PREFIX + "not-injected"
"""Written on a pod that asked for a sidecar and cannot have one: why."""

_QUANTITY: Final = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_IMAGE: Final = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9._/:@]{0,511}")
_PORT: Final = re.compile(r"[0-9]{1,5}")

NO_WAY_OUT: Final = f"annotation {PREFIX}outbound-proxy-env needs {PREFIX}configmap (a document with a Forward listener on port 15002; without one there is no way out)"


class BadAnnotation(ValueError):
    """An annotation that cannot be meant; the text names it and says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Chart values `injection.defaults.*` and `image.*`: what holds where a pod is silent."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    log_level: str = "info"
    cpu_request: str = "50m"
    memory_request: str = "64Mi"
    memory_limit: str = "256Mi"
    guaranteed_cpu: str = "250m"
    """CPU request and limit in pods of the Guaranteed class, which must have both."""
    configmap_key: str = "sidecar.yaml"
    native_sidecar: bool = True
    """What `auto` means: the cluster runs native sidecars (Kubernetes >= 1.29)."""
    otlp_endpoint: str = ""
    """Base URL of a collector; "": pods trace only where their documents say so."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Defaults:
        """From a mapping with camelCase keys. ValueError names what is unknown, missing or not a string."""
        names = {_camel(one.name): one.name for one in fields(cls)}
        if unknown := sorted(set(document) - set(names)):
            raise ValueError(f"{unknown[0]}: not a default of the injection (known: {', '.join(sorted(names))})")
        given = {names[key]: value for key, value in document.items()}
        if "image" not in given:
            raise ValueError("image: required")
        for name, value in given.items():
            if not isinstance(value, bool if name == "native_sidecar" else str):
                raise ValueError(  # noqa: TRY004 - the value of a document, not a mistake of the caller
                    f"{_camel(name)}: must be {'true or false' if name == 'native_sidecar' else 'text (quote it)'}"
                )
        return cls(**given)


def defaults_document(data: bytes) -> dict[str, Any]:
    """What `Defaults.parse` takes, from YAML or JSON. ValueError says what is wrong with it."""
    try:
        document: Any = yaml.load(data, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"neither YAML nor JSON: {' '.join(str(error).split())[:400]}") from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ValueError("must be a mapping, at least `image: NAME`")
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one pod's sidecar is made of. `values` and `facts` are what `tree.build` takes."""

    values: Mapping[str, str]
    facts: frozenset[str]
    proxy_env: bool = False
    warnings: tuple[str, ...] = field(default=())


def read_settings(annotations: Mapping[str, Any], defaults: Defaults) -> Settings:
    """Merge a pod's annotations over `defaults`. Raises BadAnnotation."""
    for name, value in annotations.items():
        if not isinstance(value, str) and name not in (INJECTED, REFUSED):  # a manifest that no API server has seen yet
            raise BadAnnotation(f"annotation {name} is not text (quote it)")
    words = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    configmap = _checked(words, "configmap", _NAME, "the name of a ConfigMap in the pod's namespace")
    app_port = _port(words)
    if not configmap and not app_port:
        raise BadAnnotation(
            f"names neither {PREFIX}configmap (a ConfigMap with the document) nor {PREFIX}app-port (the port of the application)"
        )
    values = {
        "image": _checked(words, "image", _IMAGE, "an image reference") or defaults.image,
        "imagePullPolicy": defaults.image_pull_policy,
        "logLevel": _one_of(words, "log-level", ("debug", "info", "warning", "error")) or defaults.log_level,
        "cpuRequest": _checked(words, "cpu-request", _QUANTITY, "a quantity such as 50m") or defaults.cpu_request,
        "memoryRequest": _checked(words, "memory-request", _QUANTITY, "a quantity such as 64Mi") or defaults.memory_request,
        "memoryLimit": _checked(words, "memory-limit", _QUANTITY, "a quantity such as 256Mi") or defaults.memory_limit,
        "guaranteedCpu": _checked(words, "cpu-request", _QUANTITY, "a quantity such as 50m") or defaults.guaranteed_cpu,
        "configmap": configmap,
        "configmapKey": _checked(words, "configmap-key", _KEY, "a key of a ConfigMap") or defaults.configmap_key,
        "appPort": app_port,
        "otlpEndpoint": defaults.otlp_endpoint,
    }
    native = _one_of(words, "native-sidecar", ("auto", "enabled", "disabled")) or "auto"
    facts = {name for name in ("configmap", "appPort") if values[name]}
    if native == "enabled" or (native == "auto" and defaults.native_sidecar):
        facts.add("native")
    if defaults.otlp_endpoint:
        facts.add("otlp")
    proxy_env = _one_of(words, "outbound-proxy-env", ("true", "false")) == "true"
    if proxy_env and not configmap:
        raise BadAnnotation(NO_WAY_OUT)
    _check_memory(values["memoryRequest"], values["memoryLimit"])
    return Settings(values=values, facts=frozenset(facts), proxy_env=proxy_env, warnings=_unknown(words))


KNOWN: Final = frozenset(
    [
        "configmap",
        "configmap-key",
        "app-port",
        "outbound-proxy-env",
        "native-sidecar",
        "log-level",
        "image",
        "cpu-request",
        "memory-request",
        "memory-limit",
        "inject",
        "injected",
        "not-injected",
    ]
)


def _unknown(words: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"annotation {PREFIX}{word} is not known and has no effect" for word in sorted(words) if word not in KNOWN)


def _checked(words: Mapping[str, str], name: str, pattern: re.Pattern[str], what: str) -> str:
    text = words.get(name, "")
    if text and not pattern.fullmatch(text):
        raise BadAnnotation(f"annotation {PREFIX}{name} is not {what}")
    return text


def _one_of(words: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    text = words.get(name, "")
    if text and text not in choices:
        raise BadAnnotation(f"annotation {PREFIX}{name} is none of {', '.join(choices)}")
    return text


def _port(words: Mapping[str, str]) -> str:
    text = words.get("app-port", "")
    if text and not (_PORT.fullmatch(text) and 1 <= int(text) <= 65535):
        raise BadAnnotation(f'annotation {PREFIX}app-port is not a port (write for example "8000")')
    return text


def _check_memory(request: str, limit: str) -> None:
    """An API server refuses the whole pod of a container whose request is above its limit."""
    least, most = amount(request), amount(limit)
    if least is not None and most is not None and least > most:
        raise BadAnnotation(
            f"the memory request {request} is more than the limit {limit} (set {PREFIX}memory-request or {PREFIX}memory-limit)"
        )


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)

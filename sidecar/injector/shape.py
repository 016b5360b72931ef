"""The parts of a pod that `patch.py` relies on: an API server sends no other shape, a file may hold anything."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class _Metadata(Struct):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Port(Struct):
    name: str | None = None
    container_port: int | None = msgspec.field(default=None, name="containerPort")


class _Named(Struct):
    name: str


class _Resources(Struct):
    limits: dict[str, str | int | float] | None = None
    requests: dict[str, str | int | float] | None = None


class _Container(Struct):
    name: str
    ports: list[_Port] | None = None
    env: list[_Named] | None = None
    resources: _Resources | None = None


class _Os(Struct):
    name: str | None = None


class _Spec(Struct):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = msgspec.field(default=None, name="initContainers")
    volumes: list[_Named] | None = None
    node_selector: dict[str, str] | None = msgspec.field(default=None, name="nodeSelector")
    os: _Os | None = None
    security_context: dict[str, Any] | None = msgspec.field(default=None, name="securityContext")
    resources: _Resources | None = None


class _Pod(Struct):
    spec: _Spec
    metadata: _Metadata | None = None


def misshapen(pod: Any) -> str:
    """What is wrong with the shape of a pod; "" when it is one."""
    try:
        msgspec.convert(pod, _Pod)
    except msgspec.ValidationError as error:
        return str(error)
    return ""

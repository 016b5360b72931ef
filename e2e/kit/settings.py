"""What the environment says about the cluster, the images and the tools. README.md has the list for people."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
TOOLS = ROOT / ".cache/tools/bin"
CLUSTER = "outrider-e2e"
"""The cluster that we make when we are given none."""
MODES = ("Webhook", "AdmissionPolicy")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run. Programs are names or paths."""

    kind: str
    helm: str
    kubectl: str
    docker: str
    node_image: str
    """"" means the one that kind was released with."""
    base_image: str
    """Python for the images (build argument BASE), and what the tests' own pods run."""
    cluster_name: str
    """kind's name of the cluster; "" when it is none of kind's."""
    use_current: bool
    keep: bool
    quick: bool
    rollouts: int
    drain_delay: int
    """Seconds; the product's default, or what a cluster needs that is slow to take pods out of Services."""
    injection: str
    sidecar_image: str
    """Given: used as it is, nothing is built nor loaded. The same for the injector's."""
    injector_image: str
    jaeger: str
    prometheus: str
    artifacts: Path


def from_environment() -> Settings:
    """Raises SystemExit with one line when something cannot be meant."""
    environment = os.environ
    quick = _is_on("E2E_QUICK")
    use_current = _is_on("E2E_USE_CURRENT_CLUSTER")
    injection = environment.get("E2E_INJECTION") or MODES[0]
    if injection not in MODES:
        raise SystemExit(f"E2E_INJECTION: one of {', '.join(MODES)}")
    rollouts = environment.get("E2E_ROLLOUTS") or ("3" if quick else "50")
    if not rollouts.isdecimal():
        raise SystemExit("E2E_ROLLOUTS: a number")
    drain_delay = environment.get("E2E_DRAIN_DELAY") or "5"
    if not drain_delay.isdecimal():
        raise SystemExit("E2E_DRAIN_DELAY: seconds")
    return Settings(
        kind=_program("kind"),
        helm=_program("helm"),
        kubectl=_program("kubectl"),
        docker=environment.get("DOCKER") or "docker",
        node_image=environment.get("KIND_NODE_IMAGE", ""),
        base_image=environment.get("BASE_IMAGE") or "python:3.13-slim-trixie",
        cluster_name=environment.get("KIND_CLUSTER_NAME") or ("" if use_current else CLUSTER),
        use_current=use_current,
        keep=_is_on("E2E_KEEP"),
        quick=quick,
        rollouts=int(rollouts),
        drain_delay=int(drain_delay),
        injection=injection,
        sidecar_image=environment.get("E2E_SIDECAR_IMAGE", ""),
        injector_image=environment.get("E2E_INJECTOR_IMAGE", ""),
        jaeger=environment.get("E2E_JAEGER") or _found("jaeger"),
        prometheus=environment.get("E2E_PROMETHEUS") or _found("prometheus"),
        artifacts=Path(environment.get("E2E_ARTIFACTS") or ROOT / "e2e/artifacts"),
    )


def _program(name: str) -> str:
    """By its variable, else where `make tools` puts it, else wherever PATH has it; a name that is nowhere is told of when it is run."""
    return os.environ.get(name.upper()) or _found(name) or name


def _found(name: str) -> str:
    return shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}") or ""


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")

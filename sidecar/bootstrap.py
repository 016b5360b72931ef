"""Bootstrap: what cannot change while the sidecar runs. Flags and variables become one of these (cli/run.py)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, field

from sidecar.errors import UsageError
from sidecar.model.identity import Identity
from sidecar.observe.text import printable
from sidecar.server.sockets import SocketAddress, parse_address

OFF: Final = "off"
STATE_DIR: Final = Path("/var/lib/outrider")
MAX_WORKERS: Final = 64
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "console")
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAME: Final = re.compile(r"(?:([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/)?([a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?)", re.ASCII)
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)


class ConfigMapName(NamedTuple):
    """`--configmap [NAMESPACE/]NAME`; `namespace` "": the pod's, or that of the kubeconfig's context."""

    namespace: str
    name: str


class KubeSettings(Struct, frozen=True, kw_only=True):
    """How the API server is found: in the cluster by the pod's ServiceAccount, elsewhere by a kubeconfig."""

    kubeconfig: Path | None = None
    """None: the ServiceAccount, else the usual kubeconfig."""
    context: str = ""
    """"": the kubeconfig's current one."""

    def __str__(self) -> str:
        """What tells clusters apart; "" for the one that is the default."""
        path = os.fsencode(self.kubeconfig.absolute()) if self.kubeconfig else b""
        file = f"kubeconfig {hashlib.sha256(path).hexdigest()[:12]}" if path else ""
        parts = (f"context {self.context[:253]}" if self.context else "", file)
        return ", ".join(part for part in parts if part)


class Bootstrap(Struct, frozen=True, kw_only=True):
    """The settings of `outrider run` (interface.md section 1)."""

    config: Path | None
    """The document's file, if there is one."""
    configmap: ConfigMapName | None = None
    configmap_key: str = "sidecar.yaml"
    app_port: int | None = None
    """The application's port, for the built-in document that serves while there is no other."""
    kube: KubeSettings = field(default_factory=KubeSettings)
    identity: Identity = field(default_factory=Identity)
    status_address: SocketAddress
    admin_address: SocketAddress | None
    """None: no admin surface."""
    state_dir: Path | None
    """Where the last good document is kept; None: nowhere."""
    log_level: str = "info"
    log_format: str = "auto"
    workers: int = 1
    """Processes that serve; with more than one there is another that owns the rest."""
    require_config: bool = False
    """Exit 78 when the first document is invalid, unreadable or absent, instead of waiting for a better one."""


def app_port(text: str) -> int:
    """The port of the application. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"{text!r} is not a port (write for example 8000)")
    return int(text)


def admin_address(text: str) -> SocketAddress | None:
    """`HOST:PORT`, `unix:PATH` or `off`. Raises ValueError."""
    return None if text == OFF else parse_address(text)


def checked_state_dir(text: str) -> str:
    """A folder, which need not exist yet, or `off`. Raises ValueError."""
    if text != OFF and Path(text).exists() and not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a folder")
    return text


def state_dir(text: str | None, config: Path | None, *, configmap: str = "") -> Path | None:
    """Where the last good document is kept; `text` None: the default, see `_default_state_dir`.

    `configmap` is all that tells one ConfigMap from another, its name first; "" when a file alone is followed.
    """
    if text is None:
        return _default_state_dir(config, configmap)
    return None if text == OFF else Path(text)


def _default_state_dir(config: Path | None, configmap: str) -> Path | None:
    """`/var/lib/outrider` if it can be written to, else a folder for this document in the user's state folder (XDG), else None.

    A container has one sidecar; a user's state folder may be shared by several, which must not serve each other's documents.
    """
    if os.access(STATE_DIR, os.W_OK | os.X_OK):
        return STATE_DIR
    try:
        base = Path(os.environ.get("XDG_STATE_HOME", "") or Path.home() / ".local" / "state")
    except RuntimeError:  # a container's user may have no home
        return None
    path = b"" if config is None else os.fsencode(config.absolute())
    stem = configmap.partition(" ")[0].replace("/", ".") if config is None else config.stem
    identity = path + b"\0" + os.fsencode(configmap) if configmap else path
    return base / "outrider" / f"{stem}-{hashlib.sha256(identity).hexdigest()[:12]}"


def configmap(text: str) -> ConfigMapName:
    """`[NAMESPACE/]NAME`. Raises ValueError."""
    if not (match := _NAME.fullmatch(text)):
        raise ValueError(f"{text!r} is not the name of a ConfigMap (write NAME or NAMESPACE/NAME)")
    return ConfigMapName(match[1] or "", match[2])


def configmap_key(text: str) -> str:
    """A key of a ConfigMap. Raises ValueError."""
    if not _KEY.fullmatch(text) or text in (".", ".."):
        raise ValueError(f"{text!r} is not a key of a ConfigMap (write for example sidecar.yaml)")
    return text


def kubeconfig(text: str) -> Path:
    """A file that can be read. Raises ValueError."""
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"there is no file {text!r}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{text!r} may not be read")
    return path


def need_kubernetes(flag: str) -> None:
    """`flag` asks for the API server. Raises UsageError when the package that talks to it is not installed."""
    if find_spec("kubernetes_asyncio") is None:
        raise UsageError(f"{flag} needs a package that is not installed (pip install 'outrider[kubernetes]')")


def identity(environment: Mapping[str, str]) -> Identity:
    """Which pod this is: what the downward API says, and the namespace that comes with a ServiceAccount's token."""
    found = Identity.of(environment)
    if found.namespace:
        return found
    try:
        return found._replace(namespace=NAMESPACE_FILE.read_text(encoding="ascii").strip()[:63])
    except (OSError, ValueError):
        return found


def workers(text: str) -> int:
    """How many processes share the listeners. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_WORKERS):
        raise ValueError(f"{printable(text[:40])!r} is not a number of processes (write 1 to {MAX_WORKERS}, at most one for each core)")
    return int(text)

"""Where the API server is and how we show who we are: a pod's ServiceAccount, or a kubeconfig. Credentials stay current.

The order is the usual one: a kubeconfig that was asked for (`--kubeconfig`, `--context`); in a pod, its ServiceAccount;
else $KUBECONFIG, else ~/.kube/config. What is read, and what its fields mean, is kubernetes_asyncio's knowledge (`lean`);
when it is read again is decided here: bound tokens rotate, authorities are replaced, plug-ins' credentials expire.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import yaml

from sidecar.kube import lean, tls
from sidecar.kube.api import KubeError
from sidecar.kube.text import one_line

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REFRESH_SECONDS: Final = 60.0
"""Files are read again after so long (as client-go does), and at once when they were refused."""
RENEWED_SECONDS: Final = 10.0
"""Credentials that are refused so soon after they were renewed are not tried again at once: something else is wrong."""
LOAD_SECONDS: Final = 45.0
_MALFORMED: Final = (AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError, yaml.YAMLError, OSError)
"""What the library raises, besides its own error, for a kubeconfig of another shape."""


class Credentials(NamedTuple):
    """What a request carries."""

    authorization: str
    """A header's value; "" when the client certificate is all there is."""
    tls: tls.TLS
    """The same object for as long as its files are the same."""


class Source(Protocol):
    """Reads credentials."""

    namespace: str
    """The default one: the pod's own, or the context's."""

    async def load(self, *, refused: bool) -> Any:
        """The library's Configuration. `refused`: the API server did not accept the last one, so nothing remembered counts. Raises KubeError."""
        ...

    def close(self) -> None:
        """Forget what was read."""
        ...


class Pod:
    """A pod's ServiceAccount: address from the environment; token, authority and namespace from files that the kubelet renews."""

    def __init__(self, environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> None:
        known = lean.library()
        self._errors = known.error
        self._configuration = known.configuration
        self._loader = known.service_account(str(folder / "token"), str(folder / "ca.crt"), environ=environ)
        try:
            self.namespace = (folder / "namespace").read_text(encoding="utf-8").strip() or "default"
        except (OSError, ValueError):
            self.namespace = "default"

    async def load(self, *, refused: bool) -> Any:
        """See Source. Files that are missing for a moment while they are replaced are an error as well."""
        del refused  # nothing is remembered
        configuration = self._configuration()
        try:
            self._loader.load_and_set(configuration)
        except (self._errors, OSError, ValueError) as error:
            raise KubeError(
                f"the pod's ServiceAccount cannot be used: {one_line(str(error))}; is automountServiceAccountToken false?"
            ) from None
        return configuration

    def close(self) -> None:
        """See Source."""


class Kubeconfig:
    """One context of a kubeconfig, which may be several files (`paths`, as $KUBECONFIG has them)."""

    def __init__(self, paths: str, context: str | None) -> None:
        self._library = lean.library()
        self._paths = paths
        self._context = context
        self._files = lean.Files()
        self._used: tuple[str | None, ...] = ()
        """Those of the files that the last configuration names."""
        self._loader = self._open()
        current = self._loader.current_context or {}
        self.namespace = str((current.get("context") or {}).get("namespace") or "default")

    async def load(self, *, refused: bool) -> Any:
        """See Source."""
        configuration = self._library.configuration()
        token = lean.files.set(self._files)
        try:
            if refused:  # somebody may have logged in again; a plug-in runs again
                self._loader = self._open()
            async with asyncio.timeout(LOAD_SECONDS):
                await self._loader.load_and_set(configuration)
        except TimeoutError:
            raise KubeError(f"{self}: no credentials within {LOAD_SECONDS:.0f} s") from None
        except (self._library.error, *_MALFORMED) as error:
            raise self._said(error) from None
        else:
            self._used = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
        finally:
            lean.files.reset(token)
            self._files.keep(*self._used)
        if not hasattr(self._loader, "exec_plugin_expiry"):  # a plug-in that names no end is asked again when refused, and not before
            self._loader.exec_plugin_expiry = datetime.max.replace(tzinfo=UTC)
        return configuration

    def close(self) -> None:
        """See Source."""
        self._files.keep()

    def _open(self) -> Any:
        try:
            merged = self._library.kubeconfig_files(self._paths).config
            if merged is None:
                raise KubeError(f"{self}: there is no such file")
            loader = self._library.kubeconfig(merged, self._context, config_base_path=None)
            user = (loader.current_context["context"] or {}).get("user")
            known = any(entry["name"] == user for entry in merged.value["users"])
        except (self._library.error, *_MALFORMED) as error:
            raise self._said(error) from None
        if not known:
            raise KubeError(f"{self}: the context names the user {one_line(repr(user))}, which is not there")
        if loader.provider:
            raise KubeError(f"{self}: auth-provider {one_line(str(loader.provider))} is not supported; use its exec plug-in")
        return loader

    def _said(self, error: BaseException) -> KubeError:
        """The library's messages quote whole entries, with their secrets; YAML's quote lines."""
        if isinstance(error, yaml.MarkedYAMLError):
            line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
            return KubeError(f"{self}: not YAML{line}: {one_line(error.problem or '')}")
        if isinstance(error, self._library.error):
            return KubeError(f"{self}: {one_line(re.sub(r'[{].*[}]', 'an entry', str(error), flags=re.DOTALL))}")
        if isinstance(error, OSError):
            return KubeError(f"{self}: {error.strerror or 'cannot be read'}{f': {error.filename}' if error.filename else ''}")
        return KubeError(f"{self}: not a kubeconfig")

    def __str__(self) -> str:
        """For messages."""
        return f"kubeconfig {self._paths}" + (f", context {self._context}" if self._context else "")


class Cluster:
    """An API server and our credentials there, read again when they may have changed. Belongs to one event loop."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._busy = asyncio.Lock()
        self._credentials: Credentials | None = None
        self._read_at = 0.0
        self._renewed_at = -RENEWED_SECONDS
        self.namespace = source.namespace
        self.server = ""
        """URL without a slash at its end; may have a path. Set by the first `credentials`."""
        self.proxy: str | None = None
        self.tls_server_name: str | None = None

    async def credentials(self) -> Credentials:
        """What to send now. When they cannot be read again, the last ones stay in use. Raises KubeError when there are none yet."""
        current = self._credentials
        if current is not None and self._clock() - self._read_at < REFRESH_SECONDS:
            return current
        async with self._busy:
            if self._credentials is not current and self._credentials is not None:
                return self._credentials
            try:
                return await self._read(refused=False)
            except KubeError:
                if current is None:
                    raise
                self._read_at = self._clock()
                return current

    async def renew(self, refused: Credentials) -> Credentials | None:
        """After a 401, or a certificate that was not accepted: other credentials to try at once, None when there are none."""
        async with self._busy:
            if self._credentials != refused:
                return self._credentials
            try:
                fresh = await self._read(refused=True)
            except KubeError:
                return None
            if fresh == refused:
                return None
            again = self._clock() - self._renewed_at < RENEWED_SECONDS
            self._renewed_at = self._clock()
            return None if again else fresh

    def close(self) -> None:
        """Forget the credentials."""
        self._credentials = None
        self._source.close()

    async def _read(self, *, refused: bool) -> Credentials:
        configuration = await self._source.load(refused=refused)
        security = tls.current(configuration, self._credentials.tls if self._credentials else None)
        authorization = str(configuration.api_key.get("BearerToken", "")).strip()
        if not (authorization.isascii() and authorization.isprintable()):
            raise KubeError("the token is not printable text")
        self.server, self.proxy = address_of(configuration.host), proxy_of(configuration.proxy)
        self.tls_server_name = configuration.tls_server_name
        self._read_at = self._clock()
        self._credentials = Credentials(authorization, security)
        return self._credentials


def address_of(host: str) -> str:
    """The API server's URL. Raises KubeError when it is none."""
    parts = _split(host)
    if parts is None or parts.username is not None:
        raise KubeError("the API server's address must be https://HOST[:PORT][/PATH]")
    return host.rstrip("/")


def proxy_of(url: str | None) -> str | None:
    """The kubeconfig's `proxy-url`. Raises KubeError for a kind of proxy that we do not speak to."""
    if url and _split(url) is None:
        raise KubeError("the kubeconfig's proxy-url must be http://HOST[:PORT] or https://HOST[:PORT]")
    return url or None


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        return None
    return parts if usable else None


def find(kubeconfig: Path | None, context: str | None, *, environ: Mapping[str, str] = os.environ, pod: Path = SERVICE_ACCOUNT) -> Cluster:
    """The API server to use, in the order that stands above; sends nothing. Raises KubeError when there is no way to tell."""
    if kubeconfig is not None:
        return Cluster(Kubeconfig(str(kubeconfig), context))
    if environ.get("KUBERNETES_SERVICE_HOST") and context is None and (pod / "token").exists():
        return Cluster(Pod(environ, pod))
    usual = environ.get("KUBECONFIG") or str(Path(environ.get("HOME") or "~").expanduser() / ".kube/config")
    if any(Path(path).expanduser().exists() for path in usual.split(os.pathsep) if path):
        return Cluster(Kubeconfig(usual, context))
    if environ.get("KUBERNETES_SERVICE_HOST"):
        raise KubeError(f"this pod has no ServiceAccount token ({pod / 'token'}); is automountServiceAccountToken false?")
    raise KubeError(f"no cluster: this is not a pod, and there is no kubeconfig ({usual}); name one with --kubeconfig PATH")

"""Loads kubernetes_asyncio without its models and API classes: 0.2 MiB beside aiohttp instead of 35 (docs/decisions/0010).

`import kubernetes_asyncio`, or any module of it, imports all of its 966 modules, because the package's `__init__` files do.
Of these we want four: the configuration, and the readers of kubeconfigs and of a pod's ServiceAccount. They are imported
while packages without an `__init__` stand in for the real ones, and then taken out of `sys.modules` again: the copy is
ours alone, and whoever imports the library later in the same process (the injector, a test) gets all of it.

Our copy differs in two places: certificates that stand inside a kubeconfig are kept in memory instead of in temporary
files (which the library leaves open and remembers for ever), and exec plug-ins are run by `exec_plugin`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from sidecar.kube import exec_plugin
from sidecar.kube.api import KubeError

LIBRARY: Final = "kubernetes_asyncio"
UNUSED: Final = "urllib3"
"""The library imports it for HTTP basic authentication in a place that we never reach; 1.8 MiB."""


class Library(NamedTuple):
    """What we use of it."""

    configuration: type[Any]
    """`Configuration`: host, TLS files, proxy, token."""
    service_account: type[Any]
    """`InClusterConfigLoader`."""
    kubeconfig: type[Any]
    """`KubeConfigLoader`: one context."""
    kubeconfig_files: type[Any]
    """`KubeConfigMerger`: several files as one."""
    error: type[Exception]
    """`ConfigException`."""


class Files:
    """Certificates and keys that have no file of their own, as paths that OpenSSL can open. Nothing is written to a disk."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def add(self, content: bytes) -> str:
        """The path of a new one."""
        number = os.memfd_create("outrider-kubeconfig", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{number}"
        self._open[path] = number
        with open(number, "wb", closefd=False) as file:  # a descriptor, not a path
            file.write(content)
        return path

    def keep(self, *paths: str | None) -> None:
        """Close all but these."""
        for path in self._open.keys() - set(paths):
            os.close(self._open.pop(path))


files: Final[ContextVar[Files]] = ContextVar("files")
"""Where certificates go that the library finds while it loads a kubeconfig in this context."""


_loading: Final = threading.Lock()


def library() -> Library:
    """The library, loaded at the first call, in whichever thread. Raises KubeError when it is not installed."""
    with _loading:
        return _library()


@cache
def _library() -> Library:
    if importlib.util.find_spec(LIBRARY) is None:
        raise KubeError("Kubernetes needs the package kubernetes-asyncio: pip install 'outrider[kubernetes]'")
    logging.getLogger(LIBRARY).setLevel(logging.CRITICAL)  # it logs what it raises as well
    try:
        with _stand_ins():
            return _load()
    except (ImportError, AttributeError):  # a version that is laid out in another way works, too, and takes more memory
        return _load()


def _load() -> Library:
    configuration = importlib.import_module(f"{LIBRARY}.client.configuration").Configuration
    parent = sys.modules[f"{LIBRARY}.client"]
    parent.__dict__.setdefault("Configuration", configuration)
    pod = importlib.import_module(f"{LIBRARY}.config.incluster_config")
    people = importlib.import_module(f"{LIBRARY}.config.kube_config")
    people.FileOrData = _in_memory(people.FileOrData)  # type: ignore[attr-defined]
    people.ExecProvider = _bounded(people.ExecProvider)  # type: ignore[attr-defined]
    return Library(configuration, pod.InClusterConfigLoader, people.KubeConfigLoader, people.KubeConfigMerger, people.ConfigException)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let the library's modules be imported without their packages' `__init__`; afterwards `sys.modules` is as it was."""
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(LIBRARY)
    before = dict(sys.modules)
    for name in [name for name in before if _is_ours(name)]:
        del sys.modules[name]
    try:
        for package in ("", ".client", ".config"):
            module = ModuleType(LIBRARY + package)
            module.__path__ = [location + package.replace(".", os.sep) for location in spec.submodule_search_locations]
            sys.modules[LIBRARY + package] = module
        sys.modules[f"{LIBRARY}.client"].__dict__["ApiClient"] = None  # named in annotations
        sys.modules.setdefault(UNUSED, ModuleType(UNUSED))
        yield
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if _is_ours(name)})


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == LIBRARY or (name == UNUSED and not hasattr(sys.modules[name], "__file__"))


def _in_memory(original: type[Any]) -> type[Any]:
    class InMemory(original):  # type: ignore[misc]
        def _create_temp_file_with_content(self, content: str | bytes) -> str:
            return files.get().add(content.encode() if isinstance(content, str) else content)

    return InMemory


def _bounded(original: type[Any]) -> type[Any]:
    class Bounded(original):  # type: ignore[misc]
        def __init__(self, exec_config: Any) -> None:
            super().__init__(exec_config)
            program = self.args[0]
            if os.sep in program:  # a path that is relative is so to the kubeconfig's folder, as it is for kubectl
                self.args[0] = str(Path(exec_config.path).absolute().parent / program)

        async def run(self, _previous: str | None = None) -> Any:
            return await exec_plugin.run(self.args, self.env, self.api_version)

    return Bounded

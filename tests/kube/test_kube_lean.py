"""The library behind the client is loaded without what makes it heavy, and out of everybody's way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import Sidecar, one_upstream
from support.apiserver import ApiServer

HEAVY = (
    "kubernetes_asyncio.client.models",
    "kubernetes_asyncio.client.api",
    "kubernetes_asyncio.client.api_client",
    "kubernetes_asyncio.dynamic",
)
KUBECONFIG = {
    "current-context": "a",
    "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "a", "user": {"token": "t"}}],
    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "shop"}}],
}


def python(script: str, *arguments: str) -> str:
    """What a script prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CONNECT = """
import asyncio, pathlib, sys
from sidecar.kube.client import connect
async def main():
    client = await connect(pathlib.Path(sys.argv[1]))
    print(client.namespace)
    await client.aclose()
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    (tmp_path / "config").write_text(json.dumps(KUBECONFIG))
    return str(tmp_path / "config")


def test_nothing_of_the_library_stays_where_others_find_it(kubeconfig: str) -> None:
    said = python(
        f"{CONNECT}\nasyncio.run(main())\nprint([n for n in sys.modules if n.startswith(('kubernetes_asyncio', 'urllib3'))])", kubeconfig
    )

    assert said.splitlines() == ["shop", "[]"]


def test_the_whole_library_works_before_and_after(kubeconfig: str) -> None:
    said = python(
        f"""{CONNECT}
import kubernetes_asyncio.client as before
before.V1ConfigMap()
asyncio.run(main())
import kubernetes_asyncio.client as after
from kubernetes_asyncio.config import load_kube_config
assert before is after and sys.modules["kubernetes_asyncio"].client is after
""",
        kubeconfig,
    )

    assert said == "shop"


def test_the_whole_library_works_after_the_lean_one(kubeconfig: str) -> None:
    said = python(
        f"""{CONNECT}
asyncio.run(main())
import kubernetes_asyncio, urllib3
kubernetes_asyncio.client.V1ConfigMap(); urllib3.PoolManager
""",
        kubeconfig,
    )

    assert said == "shop"


def test_a_library_that_is_laid_out_in_another_way_is_loaded_whole(kubeconfig: str) -> None:
    said = python(
        f"""{CONNECT}
import contextlib
from sidecar.kube import lean
right = lean._stand_ins
@contextlib.contextmanager
def wrong():
    with right():
        del sys.modules["kubernetes_asyncio.client"].ApiClient
        yield
lean._stand_ins = wrong
asyncio.run(main())
print("kubernetes_asyncio.client.models" in sys.modules)
""",
        kubeconfig,
    )

    assert said.splitlines() == ["shop", "True"]


def test_without_the_library_the_error_says_how_to_get_it(kubeconfig: str) -> None:
    said = python(
        f"""{CONNECT}
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "kubernetes_asyncio" else real(name, *more)
from sidecar.kube.api import KubeError
try:
    asyncio.run(main())
except KubeError as error:
    print(error)
""",
        kubeconfig,
    )

    assert "pip install 'outrider[kubernetes]'" in said


# The sidecar's own process


def imported(sidecar: Sidecar) -> set[str]:
    """The modules that a process has imported; it must run with IMPORTS."""
    return {line.rpartition("|")[2].strip() for line in sidecar.lines if line.startswith("import time:")}


def memory(sidecar: Sidecar) -> float:
    """MiB of resident memory."""
    text = Path(f"/proc/{sidecar.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}


def test_a_sidecar_that_follows_a_configmap_loads_no_models_and_no_api_classes(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    flags = [f"--configmap={namespace}/one", f"--kubeconfig={api_server.kubeconfig(tmp_path / 'config')}", "--config="]
    api_server.admin.create("ConfigMap", namespace, "one", data={"sidecar.yaml": json.dumps(one_upstream(1))})
    with Sidecar(None, flags=flags, env=IMPORTS) as sidecar:
        sidecar.wait_for("config_applied")
        api_server.admin.patch("ConfigMap", namespace, "one", {"data": {"sidecar.yaml": "{}"}})
        sidecar.wait_for("config_rejected")
        sidecar.stop()
        modules = imported(sidecar)

    assert {"kubernetes_asyncio.config.exec_provider", "sidecar.kube.client"} <= modules
    assert [name for name in modules if name.startswith(HEAVY)] == []


def test_a_sidecar_with_a_file_alone_loads_nothing_of_it(tmp_path: Path) -> None:
    with Sidecar(one_upstream(1), env=IMPORTS) as sidecar:
        sidecar.stop()
        modules = imported(sidecar)

    assert "sidecar.app" in modules
    assert [name for name in modules if name.startswith(("kubernetes_asyncio", "aiohttp", "sidecar.kube.client"))] == []


def test_following_a_configmap_costs_little_memory(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    document = json.dumps(one_upstream(1))
    flags = [f"--configmap={namespace}/one", f"--kubeconfig={api_server.kubeconfig(tmp_path / 'config')}"]
    api_server.admin.create("ConfigMap", namespace, "one", data={"sidecar.yaml": document})
    with Sidecar(document) as plain:
        without = memory(plain)
    with Sidecar(document, flags=flags) as sidecar:
        sidecar.wait_for("ready")
        api_server.admin.patch("ConfigMap", namespace, "one", {"data": {"sidecar.yaml": json.dumps(one_upstream(2))}})
        sidecar.wait_for("config_applied", count=2)

        assert memory(sidecar) - without < 20  # 15 measured; the whole library would be 50

"""Fixtures: one cluster and one set of images for a run; a namespace, and what is kept of it on failure, for each test."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pytest
from kit import artifacts, helm, images, settings, workloads
from kit.cluster import Cluster
from kit.command import CommandFailed
from kit.kube import Kube
from kit.load import Load
from kit.workloads import Json

FAILED = pytest.StashKey[bool]()
RUN = secrets.token_hex(3)
"""Names of this run's objects: several may share a cluster."""


@dataclass
class Images:
    """References that every node knows."""

    sidecar: str
    injector: str
    application: str


@dataclass
class Space:
    """A namespace with the account, the scripts and, unless said otherwise, the document that pods there use."""

    kube: Kube
    name: str
    images: Images

    def apply(self, *objects: Json) -> None:
        """Apply objects in it."""
        self.kube.apply(*objects, namespace=self.name)

    def application(
        self, name: str = "app", *, replicas: int = 1, configmap: str = "sidecar", template: Json | None = None, **annotations: str
    ) -> None:
        """A Deployment with sidecars and its Service, ready."""
        chosen = template or workloads.pod_template([workloads.application(self.images.application)], app=name)
        wanted = workloads.injected(chosen, configmap=configmap, **annotations)
        self.apply(workloads.deployment(name, wanted, replicas=replicas), workloads.service(name, app=name))
        self.kube.wait_pods(self.name, app=name, count=replicas)

    def load(self, service: str = "app", **more: object) -> Load:
        """Load on a Service of this namespace."""
        return Load(self.kube, self.name, image=self.images.application, service=service, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def given() -> settings.Settings:
    """What the environment says."""
    return settings.from_environment()


@pytest.fixture(scope="session")
def figures(given: settings.Settings, request: pytest.FixtureRequest) -> artifacts.Figures:
    """Numbers of this run."""
    found = artifacts.Figures(given.artifacts)
    request.config.stash[FIGURES] = found
    return found


@pytest.fixture(scope="session")
def cluster(given: settings.Settings, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster; its logs are kept when a test has failed."""
    with Cluster(given) as found:
        yield found
        if request.session.testsfailed:
            try:
                found.export_logs(given.artifacts / "kind")
            except CommandFailed as error:  # the tests' own failures say more
                (given.artifacts / "kind-export-failed.txt").write_text(str(error))


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kube:
    """Its API."""
    return cluster.kube


@pytest.fixture(scope="session")
def pictures(given: settings.Settings, cluster: Cluster) -> Images:
    """The images, on every node."""
    names = Images(given.sidecar_image, given.injector_image, given.base_image)
    if not names.sidecar:
        names.sidecar = images.build(given, "sidecar")
        cluster.load_image(names.sidecar)
    if not names.injector and given.injection == "Webhook":
        names.injector = images.build(given, "injector")
        cluster.load_image(names.injector)
    if given.cluster_name:
        cluster.load_image(names.application)
    return names


@pytest.fixture(scope="session")
def helming(given: settings.Settings, kube: Kube) -> helm.Helm:
    """The program helm."""
    return helm.Helm(given, kube)


@pytest.fixture(scope="session")
def release(given: settings.Settings, kube: Kube, pictures: Images, helming: helm.Helm) -> Iterator[str]:
    """charts/outrider, injecting into the namespaces of `space`; its name, which is its namespace's too."""
    name = f"outrider-e2e-{RUN}"
    try:
        helming.install(
            name, helm.CHART, name, helm.values(given.injection, run_id=RUN, sidecar=pictures.sidecar, injector=pictures.injector)
        )
        yield name
    except CommandFailed:
        artifacts.keep(kube, [name], given.artifacts / "release")
        raise
    finally:
        if not given.keep:
            helming.uninstall(name, name)
            kube.delete("Namespace", "", name)


@pytest.fixture
def bare(given: settings.Settings, kube: Kube, pictures: Images, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace in which nobody injects."""
    yield from _space(given, kube, pictures, request, {})


@pytest.fixture
def space(given: settings.Settings, kube: Kube, pictures: Images, release: str, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace in which pods that ask get a sidecar, and restricted pods alone may run."""
    labels = {helm.SELECTED: RUN, "pod-security.kubernetes.io/enforce": "restricted"}
    for found in _space(given, kube, pictures, request, labels):
        found.apply(workloads.configmap(workloads.document()))
        helm.wait_injecting(kube, found.name, pictures.application)
        yield found


def _space(
    given: settings.Settings, kube: Kube, pictures: Images, request: pytest.FixtureRequest, labels: dict[str, str]
) -> Iterator[Space]:
    short = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:24].strip("-")
    name = f"e2e-{short}-{secrets.token_hex(2)}"
    kube.create("Namespace", "", {"metadata": {"name": name, "labels": labels}})
    try:
        found = Space(kube, name, pictures)
        found.apply(*workloads.account(), workloads.scripts())
        yield found
    finally:
        failed = request.node.stash.get(FAILED, True)
        if failed:
            artifacts.keep(kube, [name], given.artifacts / request.node.name)
        if not (failed and given.keep):
            kube.delete("Namespace", "", name)


FIGURES = pytest.StashKey[artifacts.Figures]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how the test ended: fixtures keep what explains a failure."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """E2E_QUICK leaves out what takes minutes by its nature."""
    del config
    if settings.from_environment().quick:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="E2E_QUICK=1: takes minutes by its nature"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures."""
    found = config.stash.get(FIGURES, None)
    if found is not None:
        terminalreporter.section("figures")
        for name, value in found.found.items():
            terminalreporter.write_line(f"{name}: {value}")

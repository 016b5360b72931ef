"""The chart on a real API server, with both Helms: what is strict there, who may do what, upgrades, and that nothing is left."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import CHART, CI, HELMS, objects, pod_templates, render
from support.apiserver import ApiServer
from support.kube_admin import Refused
from support.programs import ROOT, need_program

FOREIGN = ("monitoring.coreos.com", "cert-manager.io")
"""Groups of kinds that only an operator brings."""
Json = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    return server.kubeconfig(tmp_path / "kubeconfig")


def run(program: str, kubeconfig: Path, *arguments: str, stdin: str = "", folder: Path | None = None) -> str:
    """Helm's own files stay in the test's folder. AssertionError: it failed, and why."""
    home = str(folder or kubeconfig.parent)
    environment = {"KUBECONFIG": str(kubeconfig), "HOME": home, "PATH": "/usr/bin:/bin"}
    command = [need_program(program), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def native(text: str) -> list[Json]:
    """The objects that Kubernetes itself knows."""
    return [each for each in objects(text) if not each["apiVersion"].startswith(FOREIGN)]


# -- the API server and JSON schemas made of its own OpenAPI take everything, without a field that they do not know


@pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])
def test_the_api_server_knows_every_field(values: Path, server: ApiServer, kubeconfig: Path) -> None:
    found = native(render(values=values))
    for namespace in {each["metadata"].get("namespace", "") for each in found} - {""}:
        with_namespace(server, namespace)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})

    said = run("kubectl", kubeconfig, "apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=listed)

    assert said.count("(server dry run)") == len(found)


@pytest.fixture(scope="module")
def schemas(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON schemas as kubeconform wants them, one for each kind: unknown fields are errors."""
    folder = tmp_path_factory.mktemp("schemas")
    document = server.admin.request("GET", "/openapi/v2")
    definitions = json.loads(json.dumps(document["definitions"]).replace('"#/definitions/', '"definitions.json#/definitions/'))
    for one in definitions.values():
        if "properties" in one:
            one["additionalProperties"] = False
        if one.get("format") == "int-or-string":
            one.pop("type"), one.pop("format")
    (folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, one in definitions.items():
        for which in one.get("x-kubernetes-group-version-kind", []):
            parts = [which["kind"], which["group"].split(".")[0], which["version"]]
            schema = {"$ref": f"definitions.json#/definitions/{name}"}
            (folder / ("-".join(part for part in parts if part).lower() + ".json")).write_text(json.dumps(schema))
    return folder


@pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])
def test_kubeconform_knows_every_field(values: Path, schemas: Path) -> None:
    command = [
        need_program("kubeconform"),
        "-strict",
        "-output",
        "json",
        "-summary",
        "-schema-location",
        f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
    ]
    command += ["-skip", "PodMonitor,PrometheusRule,Certificate,Issuer"]
    text = render(values=values)
    done = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)

    said = json.loads(done.stdout)
    assert said.get("resources", []) == []
    assert said["summary"]["valid"] == len([each for each in objects(text) if not each["apiVersion"].startswith(FOREIGN)])


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubeconfig of an API server that knows the kinds of cert-manager and of the Prometheus Operator, by their own definitions."""
    definitions = need_program("operator-crds")
    with ApiServer() as running:
        path = running.kubeconfig(tmp_path_factory.mktemp("operators") / "kubeconfig")
        run("kubectl", path, "create", "--filename", str(definitions))
        run("kubectl", path, "wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")
        yield path


FULL = [path for path in CI if any(group in path.read_text() for group in ("podMonitor", "prometheusRule", "CertManager"))]


@pytest.mark.parametrize("values", FULL, ids=[path.name.removesuffix("-values.yaml") for path in FULL])
def test_the_operators_definitions_know_every_field_of_their_objects(values: Path, operators: Path) -> None:
    found = [each for each in objects(render(values=values)) if each["apiVersion"].startswith(FOREIGN)]
    for each in found:
        each["metadata"]["namespace"] = "default"
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})

    said = run("kubectl", operators, "apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=listed)

    assert said.count("(server dry run)") == len(found) > 0


@pytest.mark.parametrize("helm", HELMS)
def test_helm_installs_and_removes_the_operators_objects_where_a_cluster_has_these_operators(helm: str, operators: Path) -> None:
    wanted = ("metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "injector.certificates.mode=CertManager")
    where = ("--namespace", f"with-operators-{helm}")
    settings = (word for one in wanted for word in ("--set", one))

    run(helm, operators, "install", "o", str(CHART), *where, "--create-namespace", *settings)
    there = run("kubectl", operators, "get", "podmonitors,prometheusrules,certificates,issuers", *where, "--output=name").split()

    assert {name.partition(".")[0] for name in there} == {"podmonitor", "prometheusrule", "certificate", "issuer"}
    run(helm, operators, "uninstall", "o", *where)
    assert run("kubectl", operators, "get", "podmonitors,prometheusrules,certificates,issuers", *where, "--output=name") == ""


def test_every_pod_of_the_chart_is_accepted_where_pod_security_is_restricted(server: ApiServer) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    server.admin.apply("Namespace", "", "restricted", metadata={"labels": labels})
    templates = [*pod_templates(render()), *pod_templates(render(values=CHART / "values-ha.yaml"))]

    for number, template in enumerate(templates):
        template["metadata"] = {"name": f"pod-{number}", "namespace": "restricted"}
        template["spec"].pop("priorityClassName", None)  # the admission that knows it wants its object
        server.admin.request("POST", "/api/v1/namespaces/restricted/pods?dryRun=All", {"apiVersion": "v1", "kind": "Pod", **template})

    assert len(templates) == 4


# -- Helm installs, upgrades and uninstalls


def with_namespace(server: ApiServer, name: str) -> str:
    server.admin.apply("Namespace", "", name)
    return name


def left(kubeconfig: Path) -> list[str]:
    """Everything in the cluster that belongs to a release of the chart."""
    kinds = run("kubectl", kubeconfig, "api-resources", "--verbs=list", "--output=name").split()
    found = run(
        "kubectl", kubeconfig, "get", ",".join(kinds), "--all-namespaces", "--selector=app.kubernetes.io/part-of=outrider", "--output=name"
    )
    secrets = run("kubectl", kubeconfig, "get", "secrets,configmaps", "--all-namespaces", "--selector=owner=helm", "--output=name")
    return found.split() + secrets.split()


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_keeps_what_the_injector_has_written_and_uninstalling_leaves_nothing(
    helm: str, server: ApiServer, kubeconfig: Path
) -> None:
    home = with_namespace(server, f"home-{helm}")
    with_namespace(server, "shop")
    name = "k-outrider-injector"
    common = ("k", str(CHART), "--namespace", home)
    run(helm, kubeconfig, "install", *common)
    ca = base64.b64encode(b"an authority").decode()
    server.admin.patch("Secret", home, f"{name}-tls", {"data": {"ca.crt": ca}})
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        path = f"/apis/admissionregistration.k8s.io/v1/{kind.lower()}s/{name}"
        entries = [{"name": entry["name"], "clientConfig": {"caBundle": ca}} for entry in server.admin.request("GET", path)["webhooks"]]
        server.admin.request("PATCH", path, {"webhooks": entries}, "application/strategic-merge-patch+json")

    changed = ("injector.replicas=3", "injection.timeoutSeconds=9", "commonLabels.team=x", "injection.defaults.logLevel=debug")
    grant = ("rbac.applicationNamespaces[0].name=shop", "rbac.applicationNamespaces[0].configMaps={orders}")
    run(helm, kubeconfig, "upgrade", *common, *(word for one in (*changed, *grant) for word in ("--set", one)))

    assert server.admin.request("GET", f"/api/v1/namespaces/{home}/secrets/{name}-tls")["data"] == {"ca.crt": ca}
    for kind in ("mutating", "validating"):
        found = server.admin.request("GET", f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/{name}")
        assert {(entry["clientConfig"]["caBundle"], entry["timeoutSeconds"]) for entry in found["webhooks"]} == {(ca, 9)}
    assert server.admin.request("GET", f"/apis/apps/v1/namespaces/{home}/deployments/{name}")["spec"]["replicas"] == 3

    run(helm, kubeconfig, "rollback", "k", "1", "--namespace", home)
    assert server.admin.request("GET", f"/api/v1/namespaces/{home}/secrets/{name}-tls")["data"] == {"ca.crt": ca}

    run(helm, kubeconfig, "uninstall", "k", "--namespace", home)
    assert left(kubeconfig) == []


@pytest.mark.parametrize("helm", HELMS)
def test_changing_the_way_of_injection_is_an_upgrade(helm: str, server: ApiServer, kubeconfig: Path) -> None:
    home = with_namespace(server, f"ways-{helm}")
    common = ("w", str(CHART), "--namespace", home)
    run(helm, kubeconfig, "install", *common)
    run(helm, kubeconfig, "upgrade", *common, "--set", "injection.mode=AdmissionPolicy")

    assert run("kubectl", kubeconfig, "get", "deployments,mutatingwebhookconfigurations", "--all-namespaces", "--output=name") == ""
    assert "w-outrider" in run("kubectl", kubeconfig, "get", "mutatingadmissionpolicies", "--output=name")

    run(helm, kubeconfig, "upgrade", *common, "--set", "injection.mode=Webhook")
    assert run("kubectl", kubeconfig, "get", "mutatingadmissionpolicies", "--output=name") == ""
    run(helm, kubeconfig, "uninstall", "w", "--namespace", home)
    assert left(kubeconfig) == []


def test_helms_upgrade_does_not_touch_what_has_not_changed(server: ApiServer, kubeconfig: Path) -> None:
    home = with_namespace(server, "same")
    common = ("k", str(CHART), "--namespace", home)
    run("helm", kubeconfig, "install", *common)

    def versions() -> set[str]:
        listed = run("kubectl", kubeconfig, "get", "deployments,services,configmaps,roles", "--namespace", home, "--output=json")
        return {f"{one['kind']} {one['metadata']['name']} {one['metadata']['resourceVersion']}" for one in json.loads(listed)["items"]}

    before = versions()
    run("helm", kubeconfig, "upgrade", *common)

    assert versions() == before
    run("helm", kubeconfig, "uninstall", "k", "--namespace", home)


# -- rights


def may(kubeconfig: Path, account: str, verb: str, what: str, namespace: str = "") -> bool:
    groups = (
        "--as-group=system:serviceaccounts",
        f"--as-group=system:serviceaccounts:{account.split(':', maxsplit=1)[0]}",
        "--as-group=system:authenticated",
    )
    where = ("--namespace", namespace) if namespace else ()
    asked = [need_program("kubectl"), "auth", "can-i", verb, what, f"--as=system:serviceaccount:{account}", *groups, *where]
    done = subprocess.run(
        asked,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent), "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


def test_everybody_may_do_what_they_must_and_no_more(server: ApiServer, kubeconfig: Path) -> None:
    home, shop, other = (with_namespace(server, name) for name in ("rights", "rights-shop", "rights-other"))
    grant = f"rbac.applicationNamespaces[0].name={shop}", "rbac.applicationNamespaces[0].configMaps={orders}"
    run("helm", kubeconfig, "install", "r", str(CHART), "--namespace", home, *(word for one in grant for word in ("--set", one)))
    injector, secret, hooks = f"{home}:r-outrider-injector", "secrets/r-outrider-injector-tls", "webhookconfigurations/r-outrider-injector"
    application = f"{shop}:orders"

    for account, verb, what, namespace, allowed in (
        (injector, "update", secret, home, True),
        (injector, "watch", secret, home, True),
        (injector, "list", "secrets", home, False),
        (injector, "create", "secrets", home, False),
        (injector, "delete", secret, home, False),
        (injector, "get", secret, other, False),
        (injector, "patch", f"mutating{hooks}", "", True),
        (injector, "patch", f"validating{hooks}", "", True),
        (injector, "patch", "mutatingwebhookconfigurations/other", "", False),
        (injector, "delete", f"mutating{hooks}", "", False),
        (injector, "create", "events.events.k8s.io", other, True),
        (injector, "list", "pods", other, False),
        (injector, "get", "configmaps/orders", shop, False),
        (application, "watch", "configmaps/orders", shop, True),
        (application, "get", "configmaps/billing", shop, False),
        (application, "list", "configmaps", shop, False),
        (application, "get", "configmaps/orders", other, False),
        (application, "create", "events.events.k8s.io", shop, True),
        (application, "delete", "events.events.k8s.io", shop, False),
        (application, "list", "endpointslices.discovery.k8s.io", shop, False),
        (f"{other}:orders", "get", "configmaps/orders", shop, False),
    ):
        assert may(kubeconfig, account, verb, what, namespace) is allowed, (account, verb, what, namespace)

    run("helm", kubeconfig, "uninstall", "r", "--namespace", home)


def test_endpoint_slices_are_granted_when_asked_for(server: ApiServer, kubeconfig: Path) -> None:
    home, shop = (with_namespace(server, name) for name in ("slices", "slices-shop"))
    more = [{"name": shop, "configMaps": ["orders"], "endpointSlices": True}]
    run(
        "helm",
        kubeconfig,
        "install",
        "r",
        str(CHART),
        "--namespace",
        home,
        "--values",
        "-",
        stdin=json.dumps({"rbac": {"applicationNamespaces": more}}),
    )

    assert may(kubeconfig, f"{shop}:any", "watch", "endpointslices.discovery.k8s.io", shop)
    assert not may(kubeconfig, f"{shop}:any", "get", "endpointslices.discovery.k8s.io", home)
    run("helm", kubeconfig, "uninstall", "r", "--namespace", home)


# -- the policy that requires sidecars


def eventually(said: Callable[[], str], wanted: str) -> None:
    deadline = time.monotonic() + 30
    while wanted not in (found := said()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert wanted in found


def test_a_pod_without_the_sidecar_that_it_should_have_is_kept_out_with_the_reason(server: ApiServer, kubeconfig: Path) -> None:
    home = with_namespace(server, "required")
    server.admin.apply("Namespace", "", "enrolled", metadata={"labels": {"outrider.dev/inject": "enabled"}})
    flags = ("--set", "injection.requireSidecar.enabled=true", "--show-only", "templates/require-sidecar.yaml")
    text = run("helm", kubeconfig, "template", "k", str(CHART), "--namespace", home, "--kube-version", "1.36.0", *flags)
    run("kubectl", kubeconfig, "apply", "--filename", "-", stdin=text)

    def created(where: str, spec: Json | None = None, containers: tuple[str, ...] = ("app",), **metadata: Any) -> str:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **metadata},
            "spec": {"containers": [{"name": name, "image": "x"} for name in containers], **(spec or {})},
        }
        try:
            server.admin.request("POST", f"/api/v1/namespaces/{where}/pods?dryRun=All", pod)
        except Refused as error:
            return str(error)
        return "created"

    eventually(lambda: created("enrolled"), "should have the sidecar outrider and has none: the injection did not answer")
    refused = {"outrider.dev/not-injected": "names neither of both"}
    assert "has none: names neither of both" in created("enrolled", annotations=refused)
    native = {"name": "outrider", "image": "x", "restartPolicy": "Always"}
    assert created("enrolled", {"initContainers": [native]}) == "created"
    assert created("enrolled", containers=("outrider", "app")) == "created"
    assert created("enrolled", labels={"outrider.dev/inject": "false"}) == "created"
    assert created("enrolled", {"hostNetwork": True}) == "created"
    assert created("enrolled", {"os": {"name": "windows"}}) == "created"
    assert created("default") == "created"
    assert "should have the sidecar" in created("default", labels={"outrider.dev/inject": "true"})
    assert created(home, labels={"outrider.dev/inject": "true"}) == "created"
    run("kubectl", kubeconfig, "delete", "--filename", "-", stdin=text)


# -- manifests and the example


def test_manifests_and_the_example_are_taken_as_they_are(server: ApiServer, kubeconfig: Path) -> None:
    for namespace in ("outrider-system", "shop"):
        with_namespace(server, namespace)
    for folder in ("manifests", "manifests/example"):
        text = run("kubectl", kubeconfig, "kustomize", str(ROOT / folder))
        said = run("kubectl", kubeconfig, "apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=text)
        assert said.count("(server dry run)") == len([one for one in yaml.safe_load_all(text) if one])


def test_the_examples_pods_are_accepted_where_pod_security_is_restricted(server: ApiServer) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    server.admin.apply("Namespace", "", "restricted", metadata={"labels": labels})
    files = ("application.yaml", "load.yaml")
    documents = [one for name in files for one in yaml.safe_load_all((ROOT / "manifests/example" / name).read_text()) if one]

    for number, template in enumerate(one["spec"]["template"] for one in documents if one["kind"] == "Deployment"):
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": template["spec"]}
        server.admin.request("POST", "/api/v1/namespaces/restricted/pods?dryRun=All", body)

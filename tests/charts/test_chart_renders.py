"""What the chart becomes, by values file, Kubernetes version and Helm; what it refuses; what holds for all that it makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import CHART, CI, HELMS, KUBERNETES, kinds, objects, one, pod_templates, render
from support.programs import need_program

from charts.source import __main__ as rules_source
from charts.source import rules as rule_files
from charts.source import slo

GOLDEN = Path(__file__).parent / "golden"
REFUSED = {
    ("admission-policy", "1.29.0"): "injection.mode: AdmissionPolicy needs MutatingAdmissionPolicy",
    ("admission-policy", "1.33.0"): "injection.mode: AdmissionPolicy needs MutatingAdmissionPolicy",
    ("everything", "1.29.0"): "injection.requireSidecar needs ValidatingAdmissionPolicy",
}
"""What a version of Kubernetes cannot do; everything else is the same on all of them."""
EACH = pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])


def golden(text: str) -> str:
    """A render for eyes and for comparing: sorted, and of rules and dashboards only the names, which are files of their own."""
    found = objects(text)
    for each in found:
        if each["kind"] == "PrometheusRule":
            each["spec"]["groups"] = [group["name"] for group in each["spec"]["groups"]]
        if "-dashboard-" in each["metadata"]["name"]:
            each["data"] = sorted(each["data"])
    return yaml.safe_dump_all(found, sort_keys=True, width=120)


@EACH
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("helm", HELMS)
def test_a_values_file_becomes_what_was_looked_at(values: Path, version: str, helm: str) -> None:
    name = values.name.removesuffix("-values.yaml")
    need_program(helm)
    if refusal := REFUSED.get((name, version)):
        with pytest.raises(AssertionError, match=refusal):
            render(helm=helm, values=values, version=version)
        return
    made = golden(render(helm=helm, values=values, version=version))
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("OUTRIDER_WRITE_GOLDEN"):
        file.write_text(made, encoding="utf-8")

    assert made == file.read_text(encoding="utf-8"), "look at the difference; OUTRIDER_WRITE_GOLDEN=1 writes the files again"


@EACH
def test_a_render_is_the_same_every_time(values: Path) -> None:
    assert render(values=values) == render(values=values)


@pytest.mark.parametrize("helm", HELMS)
@EACH
def test_helm_lint_has_nothing_to_say(values: Path, helm: str) -> None:
    command = [need_program(helm), "lint", "--strict", "--kube-version", "1.36.0", CHART, "--values", values]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\[(?:WARNING|ERROR)\].*", done.stdout, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["injector.replica=2"], "replica"),
        (["injection.mode=webhook"], "mode"),
        (["injection.failurePolicy=ignore"], "failurePolicy"),
        (["injection.timeoutSeconds=31"], "timeoutSeconds"),
        (["injection.defaults.memoryLimit=256MB"], "memoryLimit"),
        (["injection.defaults.nativeSidecar=auto"], "nativeSidecar"),
        (["injection.defaults.otlpEndpoint=collector:4318"], "otlpEndpoint"),
        (["injection.requireSidecar.actions={Deny,Warn}"], "actions"),
        (["injection.namespaceSelector.team=x"], "namespaceSelector"),
        (["injector.port=443"], "port"),
        (["injector.port=15021"], "port"),
        (["injector.replicas=0"], "replicas"),
        (["injector.podDisruptionBudget.maxUnavailable=0"], "maxUnavailable"),
        (["image.digest=sha256:abc"], "digest"),
        (["image.tag=-x"], "tag"),
        (["image.repository=Outrider"], "repository"),
        (["injector.resources=64Mi"], "resources"),
        (["rbac.applicationNamespaces[0].name=shop"], "configMaps"),
        (["rbac.applicationNamespaces[0].name=shop", "rbac.applicationNamespaces[0].configMaps={}"], "configMaps"),
        (["metrics.podMonitor.interval=30"], "interval"),
        (["metrics.prometheusRule.slo.objective=99.9"], "objective"),
        (["metrics.prometheusRule.runbooks=https://wiki"], "runbooks"),
        (["metrics.dashboard.enabled=true"], "dashboard"),
        (["extraObjects[0].kind=ConfigMap"], "apiVersion"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
@pytest.mark.parametrize("helm", HELMS)
def test_the_schema_refuses(settings: list[str], said: str, helm: str) -> None:
    need_program(helm)
    with pytest.raises(AssertionError, match=f"(?s)don't meet the specifications of the schema.*{said}"):
        render(*settings, helm=helm)


@pytest.mark.parametrize(
    ("settings", "apis", "version", "said"),
    [
        (["injection.mode=AdmissionPolicy"], (), "1.35.0", "Use Webhook"),
        (["injection.mode=None", "injection.requireSidecar.enabled=true"], (), "1.36.0", "nothing gives a sidecar"),
        (["injection.requireSidecar.enabled=true"], (), "1.29.0", "since 1.30"),
        (["injector.certificates.mode=Secret"], (), "1.36.0", "needs secretName"),
        (["injector.certificates.mode=Secret", "injector.certificates.secretName=x"], (), "1.36.0", "caBundle"),
        (["injector.certificates.secretName=x"], (), "1.36.0", "are for mode Secret, not for Self"),
        (["injector.certificates.issuerRef.name=x"], (), "1.36.0", "is for mode CertManager"),
        (["injector.certificates.mode=CertManager"], (), "1.36.0", "needs cert-manager"),
        (["injector.serviceAccount.create=false"], (), "1.36.0", "needs injector.serviceAccount.name"),
        (
            ["rbac.create=false", "rbac.applicationNamespaces[0].name=shop", "rbac.applicationNamespaces[0].configMaps={x}"],
            (),
            "1.36.0",
            "has no effect with rbac.create: false",
        ),
        (["metrics.podMonitor.enabled=true"], (), "1.36.0", "need the Prometheus Operator"),
        (["metrics.prometheusRule.enabled=true"], (), "1.36.0", "need the Prometheus Operator"),
        (["metrics.prometheusRule.slo.enabled=true"], (), "1.36.0", "has no effect without"),
        ([], (), "1.26.0", "kubeVersion"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_contradictions_end_the_render_with_what_to_do(settings: list[str], apis: tuple[str, ...], version: str, said: str) -> None:
    need_program("helm")
    with pytest.raises(AssertionError, match=re.escape(said)):
        render(*settings, apis=apis, version=version)


def test_an_older_cluster_that_has_the_policy_switched_on_gets_its_version() -> None:
    beta = "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy"
    made = render("injection.mode=AdmissionPolicy", version="1.35.0", apis=(beta,))

    assert one(made, "MutatingAdmissionPolicy")["apiVersion"] == "admissionregistration.k8s.io/v1beta1"


def test_before_native_sidecars_auto_means_none() -> None:
    def native(version: str) -> Any:
        return yaml.safe_load(one(render(version=version), "ConfigMap", "-injector")["data"]["defaults.yaml"])["nativeSidecar"]

    assert (native("1.28.9"), native("1.29.0-gke.100")) == (False, True)


# -- what holds for every object


@EACH
def test_every_object_says_whose_it_is_and_where(values: Path) -> None:
    cluster = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    for each in objects(render(values=values)):
        if each["metadata"]["name"] == "more":  # an extra object is the operator's
            continue
        wanted = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "version", "managed-by", "part-of")}
        assert wanted | {"helm.sh/chart"} <= set(each["metadata"]["labels"]), each
        whole = each["kind"] in cluster or each["kind"].endswith(("WebhookConfiguration", "AdmissionPolicy", "PolicyBinding"))
        assert ("namespace" in each["metadata"]) is not whole, each
        assert len(each["metadata"]["name"]) <= 63


def selectors(node: Any) -> list[dict[str, str]]:
    """All matchLabels, and the selectors of Services, that are to find pods of this release."""
    if isinstance(node, list):
        return [found for item in node for found in selectors(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("matchLabels", "selector") if "app.kubernetes.io/name" in (node.get(key) or {})]
    return own + [found for value in node.values() for found in selectors(value)]


@EACH
def test_selectors_have_no_label_that_changes_with_a_version(values: Path) -> None:
    for each in objects(render("commonLabels.team=x", values=values)):
        for found in selectors(each.get("spec", {})):
            assert set(found) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}


@EACH
def test_rights_name_what_they_are_for(values: Path) -> None:
    for each in objects(render(values=values)):
        for rule in each.get("rules", []) if each["kind"].endswith("Role") else []:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if rule["resources"] not in (["events"], ["endpointslices"], ["pods"]):
                assert rule["resourceNames"], rule
            assert rule["resources"] != ["events"] or rule["verbs"] == ["create"]
            assert rule["resources"] != ["pods"] or each["metadata"]["annotations"]["helm.sh/hook"] == "test"


@EACH
def test_images_have_a_tag_of_their_own_or_a_digest(values: Path) -> None:
    for template in pod_templates(render(values=values)):
        for container in template["spec"]["containers"]:
            assert re.search(r"@sha256:[0-9a-f]{64}$|:\d+\.\d+\.\d+$", container["image"])


# -- parts


def test_one_entry_of_the_webhook_is_for_labelled_namespaces_and_one_for_the_others() -> None:
    entries = one(render("injection.namespaceSelector.matchLabels.team=x"), "MutatingWebhookConfiguration")["webhooks"]
    never = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "kube-public", "kube-node-lease", "home"]}

    assert [entry["clientConfig"]["service"]["path"] for entry in entries] == ["/inject/namespace", "/inject/pod"]
    for entry, operator in zip(entries, ("In", "NotIn"), strict=True):
        assert entry["namespaceSelector"]["matchLabels"] == {"team": "x"}
        assert entry["namespaceSelector"]["matchExpressions"] == [
            never,
            {"key": "outrider.dev/inject", "operator": operator, "values": ["enabled"]},
        ]
        assert "caBundle" not in entry["clientConfig"]


def test_a_certificate_of_ones_own_brings_its_authority() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    own = {"injector": {"certificates": {"mode": "Secret", "secretName": "mine", "caBundle": pem}}}
    made = render(more=own)

    assert {entry["clientConfig"]["caBundle"] for entry in one(made, "MutatingWebhookConfiguration")["webhooks"]}
    assert "Secret" not in kinds(made)
    assert one(made, "Deployment")["spec"]["template"]["spec"]["volumes"][1]["secret"] == {"secretName": "mine"}
    assert one(made, "ClusterRole")["rules"] == [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}]


def test_there_is_a_disruption_budget_when_there_is_more_than_one_replica() -> None:
    assert "PodDisruptionBudget" not in kinds(render())
    assert one(render("injector.replicas=2"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_values_for_high_availability_are_those_of_the_ci_file() -> None:
    named = yaml.safe_load((CHART / "values-ha.yaml").read_text())["injector"]
    tested = yaml.safe_load((CHART / "ci/ha-values.yaml").read_text())["injector"]

    assert named["replicas"] == tested["replicas"] == 3
    assert one(render(values=CHART / "values-ha.yaml"), "Deployment")["spec"]["replicas"] == 3


def test_spread_constraints_find_the_injectors_own_pods() -> None:
    for text in (render(), render(values=CHART / "values-ha.yaml")):
        spec = one(text, "Deployment")["spec"]
        for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"] == spec["selector"]
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"


def test_without_injection_nothing_but_telemetry_and_rights_is_left() -> None:
    assert render("injection.mode=None").strip() == ""


def test_nothing_of_monitoring_is_there_unless_asked_for() -> None:
    made = render()

    assert not {"PodMonitor", "PrometheusRule"} & kinds(made)
    assert "grafana" not in made


def test_dashboards_are_the_files_byte_for_byte() -> None:
    made = render("metrics.dashboards.enabled=true", apis=())
    maps = [each for each in objects(made) if each["kind"] == "ConfigMap" and "-dashboard-" in each["metadata"]["name"]]

    assert {name: text for each in maps for name, text in each["data"].items()} == {
        path.name: path.read_text(encoding="utf-8").strip() for path in (CHART / "dashboards").glob("*.json")
    }
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)
    assert all(len(json.dumps(each)) < 256 * 1024 for each in maps)  # what `kubectl apply` keeps in an annotation


def test_rules_are_the_files_with_ones_own_runbooks_and_objective() -> None:
    on = {"enabled": True, "runbooks": "https://wiki.example.com/o/", "slo": {"enabled": True, "objective": 0.995, "latencySeconds": 1}}
    made = render(more={"metrics": {"prometheusRule": on}})
    expected = yaml.safe_load(rule_files.render(rules_source.GROUPS, ""))["groups"]
    objective = yaml.safe_load(rule_files.render(slo.groups(0.995, 1), ""))["groups"]
    text = json.dumps([expected, objective]).replace("https://outrider.dev/runbooks/", "https://wiki.example.com/o/")

    assert [
        one(made, "PrometheusRule", "k-outrider")["spec"]["groups"],
        one(made, "PrometheusRule", "-slo")["spec"]["groups"],
    ] == json.loads(text)


def test_rules_by_objective_are_an_option() -> None:
    assert "outrider-slo" not in render("metrics.prometheusRule.enabled=true")


def test_a_name_that_says_it_already_is_not_said_twice() -> None:
    command = [need_program("helm"), "template", "my-outrider", CHART, "--show-only", "templates/injector-service.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "my-outrider-injector"

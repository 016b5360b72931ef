"""`outrider inject`, as a user calls it: the golden pods in any kind of workload, and files that otherwise stay as they were."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from injection.cases import ALONE, DEFAULTS, INJECTED, REFUSED, Case, pod
from injection.golden import golden, mark, refusal

from sidecar import __version__
from sidecar.cli.main import main

Json = dict[str, Any]
TRIED = [case for case in INJECTED if "cli" not in case.without]
PLAIN = pod({"configmap": "c"})
OTHER = DEFAULTS["other"]
OTHER_FILE = {
    "image": OTHER.image,
    "imagePullPolicy": OTHER.image_pull_policy,
    "logLevel": OTHER.log_level,
    "cpuRequest": OTHER.cpu_request,
    "memoryRequest": OTHER.memory_request,
    "memoryLimit": OTHER.memory_limit,
    "guaranteedCpu": OTHER.guaranteed_cpu,
    "configmapKey": OTHER.configmap_key,
    "nativeSidecar": OTHER.native_sidecar,
    "otlpEndpoint": OTHER.otlp_endpoint,
}


@pytest.fixture
def outrider(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Call the command with a text as its standard input: exit code, output, messages."""

    def call(*words: str | Path, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode("utf-8", "surrogateescape"))))
        code = main(["inject", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def injected(outrider, one: Any, *words: str | Path) -> Any:
    """What becomes of one JSON object."""
    code, out, err = outrider("-f", "-", *words, given=json.dumps(one))
    assert code == 0, err
    return json.loads(out)


def deployment(template: Json, kind: str = "Deployment", **metadata: Any) -> Json:
    template = {name: value for name, value in template.items() if name in ("metadata", "spec")}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "orders", **metadata},
        "spec": {"replicas": 2, "template": template},
    }


# -- the golden pods


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.name)
@pytest.mark.parametrize("style", ["json", "yaml"])
def test_the_template_becomes_the_golden_pod(outrider, tmp_path: Path, case: Case, style: str):
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text(yaml.safe_dump(OTHER_FILE if case.defaults == "other" else {"image": DEFAULTS["plain"].image}))
    given = deployment(case.pod)
    text = json.dumps(given) if style == "json" else yaml.safe_dump(given, sort_keys=False)
    code, out, err = outrider("-f", "-", "--defaults", defaults, given=text)
    assert code == 0, err
    expected = golden(case, "cli")
    assert yaml.safe_load(out) == deployment(expected)
    if style == "json":
        assert out.startswith("{")
    again, same, _ = outrider("-f", "-", "--defaults", defaults, given=out)
    assert (again, same) == (0, out)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_workload_that_cannot_have_one_ends_it_with_the_reason(outrider, case: Case):
    code, out, err = outrider("-f", "-", "--all", given=json.dumps(case.pod))
    assert code == 1
    assert out == ""
    assert err.splitlines() == [f"outrider: <stdin>: Pod orders: cannot have a sidecar: {refusal(case)}"]


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_a_pod_that_is_none_of_its_business_is_left_as_it_is(outrider, case: Case):
    text = json.dumps(case.pod)
    code, out, err = outrider("-f", "-", given=text)
    assert (code, out) == (0, text + "\n")
    assert "left as it is" in err or "nothing to do" in err


@pytest.mark.parametrize("by", ["webhook", "policy", "chart"])
def test_what_another_way_has_put_there_stays(outrider, by: str):
    text = json.dumps(golden(INJECTED[0], by))
    code, out, err = outrider("-f", "-", given=text)
    assert (code, out) == (0, text + "\n")
    assert f"left as it is: the sidecar is there already, put there by {by}" in err


# -- kinds


@pytest.mark.parametrize(
    "kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "Rollout", "CloneSet"]
)
def test_any_kind_with_a_template_is_a_workload(outrider, kind: str):
    assert injected(outrider, deployment(PLAIN, kind)) == deployment(injected(outrider, PLAIN), kind)


def test_a_cron_job_has_its_template_in_its_jobs_template(outrider):
    def cron(template: Json) -> Json:
        return {
            "kind": "CronJob",
            "spec": {"jobTemplate": {"spec": {"template": {"spec": template["spec"], "metadata": template["metadata"]}}}},
        }

    assert injected(outrider, cron(PLAIN)) == cron(injected(outrider, PLAIN))


def test_a_pod_template_is_a_workload(outrider):
    assert injected(outrider, {"kind": "PodTemplate", "template": PLAIN}) == {"kind": "PodTemplate", "template": injected(outrider, PLAIN)}


@pytest.mark.parametrize("kind", ["List", "DeploymentList"])
def test_lists_are_looked_into(outrider, kind: str):
    service = {"kind": "Service", "spec": {"ports": [1]}}
    one = {"kind": kind, "items": [service, deployment(PLAIN), {"kind": "List", "items": [PLAIN]}]}
    assert injected(outrider, one) == {
        "kind": kind,
        "items": [service, deployment(injected(outrider, PLAIN)), {"kind": "List", "items": [injected(outrider, PLAIN)]}],
    }


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "Service", "spec": {"template": "x"}},
        {"kind": "Certificate", "spec": {"template": {"spec": {"hosts": ["a"]}}}},
        {"kind": "Deployment"},
        {"kind": "Deployment", "spec": None},
        {"kind": "List", "items": None},
        {"kind": "List", "items": [1, None, "x", {}]},
        {},
    ],
)
def test_what_is_no_workload_passes_through(outrider, other: Json):
    text = json.dumps(other)
    code, out, err = outrider("-f", "-", "--all", given=text)
    assert (code, out) == (0, text + "\n")
    assert "nothing to do" in err


# -- who asks


def asking(label: Any = None, annotations: Json | None = None) -> Json:
    metadata = {"labels": {} if label is None else {"outrider.dev/inject": label}, "annotations": annotations or {}}
    return deployment({"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "a"}]}})


PORT = {"outrider.dev/app-port": "8000"}


@pytest.mark.parametrize(
    ("one", "every", "gets"),
    [
        (asking("true", PORT), False, True),
        (asking("false", PORT), False, False),
        (asking("false", PORT), True, False),
        (asking(None, PORT), False, True),
        (asking("yes", PORT), False, True),
        (asking(None, {"outrider.dev/configmap": "c"}), False, True),
        (asking(None, {"outrider.dev/configmap": ""}), False, False),
        (asking(None, {"outrider.dev/log-level": "info"}), False, False),
        (asking(), False, False),
    ],
)
def test_the_label_counts_before_annotations_and_these_before_all(outrider, one: Json, every: bool, gets: bool):
    made = injected(outrider, one, *(["--all"] if every else []))
    assert (made != one) is gets


def test_all_means_also_those_that_say_nothing(outrider):
    code, out, err = outrider("-f", "-", "--all", given=json.dumps(asking()))
    assert (code, out) == (1, "")
    assert "Deployment orders: cannot have a sidecar: names neither outrider.dev/configmap" in err


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (asking(True), "label outrider.dev/inject is not text (quote it)"),
        (asking(None, {"outrider.dev/app-port": 8000}), "annotation outrider.dev/app-port is not text (quote it)"),
        (asking("true", {**PORT, "example.com/x": 1}), "this is not a pod: Expected `str`, got `int`"),
        (
            deployment({"metadata": {"annotations": PORT}, "spec": {"containers": ["app"]}}),
            "this is not a pod: Expected `object`, got `str`",
        ),
        (
            deployment({"metadata": {"annotations": PORT}, "spec": {"containers": [{"image": "a"}]}}),
            "this is not a pod: Object missing required field `name`",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(outrider, one: Json, message: str):
    code, out, err = outrider("-f", "-", given=json.dumps(one))
    assert (code, out) == (1, "")
    assert message in err


def test_a_copy_that_a_controller_has_made_is_not_the_place(outrider):
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "orders-5d8f", "uid": "1", "controller": True}
    one = pod({"configmap": "c"}, metadata={"ownerReferences": [owner]})
    code, out, err = outrider("-f", "-", given=json.dumps(one))
    assert (code, json.loads(out)) == (0, one)
    assert "left as it is: ReplicaSet orders-5d8f has made it (inject into that)" in err


def test_one_refusal_keeps_everything_back(outrider):
    text = "\n---\n".join(json.dumps(one) for one in (PLAIN, pod({"app-port": "x"}), pod({"app-port": "0"})))
    code, out, err = outrider("-f", "-", given=text)
    assert (code, out) == (1, "")
    assert err.count("is not a port") == 2


# -- words


def test_words_in_the_wrong_place_are_told(outrider):
    one = deployment(
        PLAIN,
        labels={"outrider.dev/inject": "true", "outrider.dev/injct": "x"},
        annotations={"outrider.dev/app-port": "1"},
        namespace="shop",
    )
    _, _, err = outrider("-f", "-", given=json.dumps({"kind": "List", "items": [one]}))
    assert err.splitlines() == [
        "outrider: <stdin>: Deployment shop/orders: annotation outrider.dev/app-port has no effect there (put it in spec.template.metadata.annotations)",
        "outrider: <stdin>: Deployment shop/orders: label outrider.dev/injct has no effect there (put it in spec.template.metadata.labels)",
    ]


@pytest.mark.parametrize(
    ("policy", "native", "told"), [("Never", False, True), ("OnFailure", False, True), ("Always", False, False), ("Never", True, False)]
)
def test_a_job_that_would_not_complete_is_told(outrider, policy: str, native: bool, told: bool):
    one = deployment(pod({"configmap": "c"}, restartPolicy=policy), "Job")
    code, _, err = outrider("-f", "-", "--native-sidecar", "enabled" if native else "disabled", given=json.dumps(one))
    assert code == 0
    assert ("POST http://127.0.0.1:15020/quitquitquit" in err) is told


def test_names_move_no_terminal(outrider):
    one = deployment(pod({}), "Evil\x1b[2J\nKind")
    _, _, err = outrider("-f", "-", given=json.dumps(one))
    assert err.startswith("outrider: <stdin>: Evil [2J Kind orders: cannot have")


def test_unknown_annotations_are_told(outrider):
    _, _, err = outrider("-f", "-", given=json.dumps(pod({"configmap": "c", "cpu": "1"})))
    assert err == "outrider: <stdin>: Pod orders: annotation outrider.dev/cpu is not known and has no effect\n"


# -- defaults


def image_of(one: Json) -> str:
    image: str = one["spec"]["initContainers"][0]["image"]
    return image


def test_the_image_of_the_flag_counts_before_that_of_the_file(outrider, tmp_path: Path):
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("image: file:1")
    assert image_of(injected(outrider, PLAIN)) == f"outrider:{__version__}"
    assert image_of(injected(outrider, PLAIN, "--defaults", defaults)) == "file:1"
    assert image_of(injected(outrider, PLAIN, "--defaults", defaults, "--image", "flag:1")) == "flag:1"
    assert image_of(injected(outrider, pod({"configmap": "c", "image": "pod:1"}), "--image", "flag:1")) == "pod:1"


def test_the_flag_for_native_sidecars_counts_before_the_file(outrider, tmp_path: Path):
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("nativeSidecar: false")
    assert "initContainers" not in injected(outrider, PLAIN, "--defaults", defaults)["spec"]
    assert "initContainers" in injected(outrider, PLAIN, "--defaults", defaults, "--native-sidecar", "enabled")["spec"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("typo: 1", "defaults.yaml: typo: not a default of the injection (known: "),
        ("logLevel: 1", "defaults.yaml: logLevel: must be text (quote it)"),
        ("[", "defaults.yaml: neither YAML nor JSON: "),
        ("- a", "defaults.yaml: must be a mapping"),
    ],
)
def test_bad_defaults_are_told(outrider, tmp_path: Path, text: str, message: str):
    (tmp_path / "defaults.yaml").write_text(text)
    code, out, err = outrider("-f", "-", "--defaults", tmp_path / "defaults.yaml", given="{}")
    assert (code, out) == (2, "")
    assert message in err


# -- rights


def test_it_adds_the_rights_of_the_sidecars_that_follow_a_configmap(outrider):
    def rules(namespace: str, account: str, *names: str) -> list[Json]:
        group = "rbac.authorization.k8s.io"
        metadata = {"name": f"outrider-{account}", "namespace": namespace}
        role = {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": list(names), "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
            ],
        }
        binding = {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        return [role, binding]

    given = [
        deployment(pod({"configmap": "b"}, serviceAccountName="orders"), namespace="shop"),
        deployment(pod({"configmap": "a"}, serviceAccountName="orders"), namespace="shop"),
        deployment(pod({"configmap": "a"}, serviceAccountName="orders"), namespace="shop"),
        deployment(pod({"configmap": "c"})),
        deployment(pod({"app-port": "8000"})),
        deployment(pod({"configmap": "no"}, labels={"outrider.dev/inject": "false"})),
    ]
    code, out, err = outrider("-f", "-", "--rbac", "--namespace", "elsewhere", given=yaml.safe_dump_all(given))
    assert code == 0, err
    assert list(yaml.safe_load_all(out))[len(given) :] == [*rules("shop", "orders", "a", "b"), *rules("elsewhere", "default", "c")]


def test_rights_need_a_namespace(outrider):
    code, out, err = outrider("-f", "-", "--rbac", given=json.dumps(deployment(PLAIN)))
    assert (code, out) == (2, "")
    assert err == "outrider: --rbac: Deployment orders does not say its namespace (give --namespace NAME)\n"


def test_a_sidecar_without_a_configmap_needs_no_rights(outrider):
    code, out, err = outrider("-f", "-", "--rbac", given=json.dumps(pod({"app-port": "1"})))
    assert code == 0
    assert json.loads(out)["kind"] == "Pod"
    assert "no rights are needed" in err


@pytest.mark.parametrize("style", ["json", "yaml"])
def test_rights_that_are_there_are_not_added_again(outrider, style: str):
    one = deployment(PLAIN, namespace="shop")
    _, once, _ = outrider("-f", "-", "--rbac", given=json.dumps(one) if style == "json" else yaml.safe_dump(one))
    assert once.count("RoleBinding") == 1
    assert outrider("-f", "-", "--rbac", given=once)[:2] == (0, once)
    code, out, err = outrider("-f", "-", "--rbac", given=once.replace("endpointslices", "pods"))
    assert (code, out) == (2, "")
    assert err.endswith("outrider: --rbac: Role shop/outrider-default is there already, and is another (take it out)\n")


def test_rights_are_json_where_everything_is(outrider):
    code, out, _ = outrider("-f", "-", "--rbac", "--namespace", "n", given=json.dumps(PLAIN, indent=4))
    assert code == 0
    parts = out.replace("}\n{", "}\0{").split("\0")
    assert [json.loads(part)["kind"] for part in parts] == ["Pod", "Role", "RoleBinding"]


# -- files


def test_several_files_become_one_stream(outrider, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("# first\nkind: A\n---\nkind: B\n")
    (tmp_path / "b.json").write_text(json.dumps(PLAIN) + json.dumps({"kind": "C"}))
    (tmp_path / "c.yaml").write_text("")
    code, out, err = outrider("-f", tmp_path / "a.yaml", "-f", tmp_path / "b.json", "-f", tmp_path / "c.yaml")
    assert code == 0, err
    assert out.startswith("---\n# first\nkind: A\n---\nkind: B\n---\n{")
    documents = list(yaml.safe_load_all(out))
    assert [one["kind"] for one in documents] == ["A", "B", "Pod", "C"]
    assert documents[2]["metadata"]["annotations"]["outrider.dev/injected"] == mark("cli")


def test_files_are_named_by_the_variable_too(outrider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"kind: {name}\n")
    monkeypatch.setenv("OUTRIDER_FILENAME", f"{tmp_path}/a\n{tmp_path}/b")
    assert outrider()[1] == "---\nkind: a\n---\nkind: b\n"


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ([], "", "no manifests: give -f FILE, or -f - for standard input"),
        (["-f", "-", "-f", "-"], "", "standard input can be read only once"),
        (["-f", "/does/not/exist"], "", "cannot read /does/not/exist: no such file or directory"),
        (["-f", "/"], "", "cannot read /: is a directory"),
        (["-f", "-"], "a: [", "<stdin>:2:1: this is not YAML: "),
        (["-f", "-"], "a: 1\n\tb: 2", "<stdin>:2:1: this is not YAML: "),
        (["-f", "-"], "a: 1\na: 2", "<stdin>:2:1: the key 'a' is there twice"),
        (["-f", "-"], '{"a": 1, "a": 2}', "<stdin>:1:10: the key 'a' is there twice"),
        (["-f", "-"], "? [a]\n: b", "<stdin>:1:3: a key must be plain text"),
        (["-f", "-"], "&a [*a]", "an alias is inside of what it stands for"),
        (["-f", "-"], "&a {<<: &b {<<: *a}}", "an alias is inside of what it stands for"),
        (["-f", "-"], "<<: 1", "only mappings can be merged with <<"),
        (["-f", "-"], "a: *b", "<stdin>:1:4: this is not YAML: found undefined alias"),
        (["-f", "-"], "[" * 101, "nested deeper than 100 levels"),
        (["-f", "-"], '{"a":' * 5000, "nested deeper than 100 levels"),
        (["-f", "-"], "a: \udcff", "<stdin>:1:4: byte 0xff is not UTF-8"),
        (["-f", "-"], "a: \x1b", "<stdin>:1:4: control character U+001B"),
        (["-f", "-"], " " * (16 * 1024 * 1024 + 1), "larger than 16777216 bytes"),
        (["-f", "-", "--native-sidecar", "maybe"], "", "write enabled or disabled"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(outrider, words: list[str], given: str, message: str):
    code, out, err = outrider(*words, given=given)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# -- YAML that is not ours stays as it was

LETTERS = """\
apiVersion: v1
kind: Pod
metadata:
  name: "orders"
  labels: {outrider.dev/inject: 'true', on: yes}
  annotations:
    outrider.dev/app-port: "8000"
    note: |
      two
      lines
    folded: >-
      a long
      line
spec:
  hostname: ~
  priority: 0100
  containers:
  - name: app
    image: !!str orders
    args: [10:20, 1_000, 0x1F, 2024-01-01, .5, 1e3, No, null, "", '', é, %s]
""" % ("x " * 200)


def test_what_others_have_written_stays_to_the_letter(outrider):
    code, out, err = outrider("-f", "-", given=LETTERS)
    assert code == 0, err
    lines = out.splitlines()
    for line in [
        '  name: "orders"',
        '    outrider.dev/app-port: "8000"',
        "    note: |",
        "  hostname: ~",
        "  priority: 0100",
        "  labels: {outrider.dev/inject: 'true', on: yes}",
    ]:
        assert line in lines
    assert f"    args: ['10:20', 1_000, 0x1F, 2024-01-01, .5, 1e3, No, null, \"\", '', é, {('x ' * 200).strip()}]" in lines
    assert [line.strip(" -").split(":")[0] for line in lines if not line.startswith("   ")] == [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "labels",
        "annotations",
        "spec",
        "hostname",
        "priority",
        "containers",
        "name",
        "initContainers",
        "name",
        "volumes",
        "name",
        "name",
    ]


def test_a_file_without_a_change_comes_out_byte_for_byte(outrider):
    text = "# a comment\r\nkind:   Service   # another\r\n---\r\n# nothing\r\n"
    assert outrider("-f", "-", given=text)[1] == text


def test_what_an_alias_shares_changes_in_one_place_only(outrider):
    text = """
kind: List
items:
- kind: Pod
  metadata: &meta
    name: a
    annotations: &words {outrider.dev/app-port: "8000"}
  spec: &spec {containers: [{name: app, image: a}]}
- kind: Pod
  metadata: {name: b, labels: {outrider.dev/inject: "false"}, annotations: *words}
  spec: *spec
- kind: Pod
  metadata: {<<: *meta, name: c}
  spec: {<<: *spec, hostname: h}
"""
    code, out, err = outrider("-f", "-", given=text)
    assert code == 0, err
    a, b, c = yaml.safe_load(out)["items"]
    assert b == {
        "kind": "Pod",
        "metadata": {"name": "b", "labels": {"outrider.dev/inject": "false"}, "annotations": {"outrider.dev/app-port": "8000"}},
        "spec": {"containers": [{"name": "app", "image": "a"}]},
    }
    assert a["spec"]["initContainers"] == c["spec"]["initContainers"]
    assert (c["metadata"]["name"], c["spec"]["hostname"]) == ("c", "h")
    assert c["metadata"]["annotations"]["outrider.dev/injected"] == mark("cli")


def test_json_keeps_its_indentation(outrider):
    for indent in (None, 2, 4):
        _, out, _ = outrider("-f", "-", given=json.dumps(PLAIN, indent=indent))
        assert out == json.dumps(json.loads(out), indent=indent) + "\n"


# -- where it runs


def test_it_needs_neither_kubernetes_nor_cryptography(tmp_path: Path):
    """The plain `pip install outrider`: as if the extras were not there."""
    program = f"""
import sys
for name in ("kubernetes_asyncio", "cryptography", "opentelemetry", "aiohttp"):
    sys.modules[name] = None
from sidecar.cli.main import main
sys.exit(main(["inject", "--rbac", "--namespace", "n", "-f", {str(tmp_path / "pod.json")!r}]))
"""
    (tmp_path / "pod.json").write_text(json.dumps(PLAIN))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert image_of(json.JSONDecoder().raw_decode(done.stdout)[0]) == f"outrider:{__version__}"


def test_the_sidecars_image_says_that_it_cannot(outrider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sidecar.cli.inject.find_spec", lambda _name: None)
    code, out, err = outrider("-f", "-", given="{}")
    assert (code, out) == (2, "")
    assert err == "outrider: this image is the sidecar's and cannot inject (use the image outrider-injector, or pip install outrider)\n"

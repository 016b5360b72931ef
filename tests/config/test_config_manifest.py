import base64
import json

import pytest
import yaml

from sidecar.config.check import check_if_ours, check_text

DOCUMENT = 'apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'
WRONG = DOCUMENT + "lifecycle: {drainDelay: 5}\n"


def manifest(document, indent="    ", header="|"):
    body = "".join(f"{indent}{line}\n" if line else "\n" for line in document.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: orders\ndata:\n  sidecar.yaml: {header}\n{body}"


def places(data, **more):
    return [(problem.path, problem.line, problem.column) for problem in check_text(data.encode(), **more).problems]


def test_a_plain_document_is_checked_as_it_is():
    assert places(WRONG) == [("lifecycle.drainDelay", 4, 25)]
    assert check_text(DOCUMENT.encode()) == ([], [], 1)


def test_problems_in_a_configmap_have_the_lines_and_columns_of_the_manifest():
    text = manifest(WRONG)
    assert places(text) == [("lifecycle.drainDelay", 10, 29)]
    assert text.splitlines()[9][28:] == "5}"


def test_the_kind_of_block_does_not_move_the_lines():
    assert places(manifest("\n\n" + WRONG, header="|-")) == [("lifecycle.drainDelay", 12, 29)]
    assert places(manifest(WRONG, indent=" " * 7)) == [("lifecycle.drainDelay", 10, 32)]


def test_a_value_in_quotes_has_the_place_of_the_value():
    text = f"kind: ConfigMap\ndata:\n  sidecar.yaml: {json.dumps(WRONG)}\n"
    assert places(text) == [("lifecycle.drainDelay", 3, 17)]


def test_a_list_from_kubectl_and_several_documents_are_all_checked():
    one = "".join(f"  {line}\n" for line in manifest(WRONG).splitlines()).replace("  apiVersion: v1", "- apiVersion: v1", 1)
    result = check_text(
        f"kind: List\nitems:\n{one}---\n{manifest(DOCUMENT)}---\nkind: Deployment\nspec: &x {{a: !y 1}}\nother: *x\n".encode()
    )
    assert result.documents == 2
    assert [problem.path for problem in result.problems] == ["lifecycle.drainDelay"]


def test_kubectls_json_is_a_manifest_too():
    assert places(json.dumps({"kind": "ConfigMap", "data": {"sidecar.yaml": WRONG}}))[0][0] == "lifecycle.drainDelay"


def test_another_key_can_be_named_and_a_missing_one_is_a_problem():
    text = manifest(WRONG).replace("sidecar.yaml", "other")
    assert places(text, key="other") == [("lifecycle.drainDelay", 10, 29)]
    (problem,) = check_text(text.encode()).problems
    assert 'the ConfigMap "orders" has no key sidecar.yaml' in problem.message


def test_a_document_that_is_a_mapping_instead_of_text_is_explained():
    (problem,) = check_text(b"kind: ConfigMap\ndata:\n  sidecar.yaml:\n    kind: SidecarConfig\n").problems
    assert "write `sidecar.yaml: |`" in problem.message


def binary(document):
    encoded = base64.encodebytes(document.encode()).decode()  # several lines, as some tools write it
    return "kind: ConfigMap\nbinaryData:\n  sidecar.yaml: |\n" + "".join(f"    {line}\n" for line in encoded.splitlines())


def test_a_document_in_binary_data_is_checked_and_its_lines_are_told_in_words():
    assert check_text(binary(DOCUMENT).encode()) == ([], [], 1)
    (problem,) = check_text(binary(WRONG).encode()).problems
    assert (problem.path, problem.line, problem.column) == ("lifecycle.drainDelay", 3, 17)
    assert problem.message.startswith("line 4 of the document: ")


@pytest.mark.parametrize("value", ["kind: SidecarConfig", "eA", "'e A = = ='", "é"])
def test_binary_data_that_is_not_base64_is_explained(value):
    (problem,) = check_text(f"kind: ConfigMap\nbinaryData:\n  sidecar.yaml: {value!r}\n".encode()).problems
    assert problem.path == "binaryData.sidecar.yaml"
    assert "not Base64" in problem.message


def test_a_label_says_that_the_key_must_be_there():
    labelled = "kind: ConfigMap\nmetadata: {name: a, labels: {outrider.dev/config: 'true'}}\ndata: {sidecar.yml: x}\n---\n"
    (problem,) = check_text((labelled + manifest(DOCUMENT)).encode()).problems
    assert (problem.path, problem.line) == ("data", 1)
    assert 'the ConfigMap "a" has no key sidecar.yaml' in problem.message
    assert check_text((labelled.replace("'true'", "'false'") + manifest(DOCUMENT)).encode()).problems == []


def test_a_document_between_manifests_is_not_passed_over_in_silence():
    (problem,) = check_text((manifest(DOCUMENT) + "---\n" + DOCUMENT).encode()).problems
    assert "nobody reads" in problem.message


KUBECTL_NOISE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {
        "name": "orders",
        "namespace": "shop",
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"kind": "ConfigMap", "data": {"sidecar.yaml": WRONG}})
        },
        "managedFields": [{"apiVersion": "v1", "fieldsV1": {"f:data": {".": {}, "f:sidecar.yaml": {}}}, "manager": "kubectl"}],
        "resourceVersion": "42",
    },
}


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
def test_what_kubectl_prints_of_many_objects_is_checked_one_by_one(write):
    good = {**KUBECTL_NOISE, "data": {"sidecar.yaml": DOCUMENT}}
    bad = {**KUBECTL_NOISE, "data": {"sidecar.yaml": WRONG}}
    other = {**KUBECTL_NOISE, "data": {"ca.crt": "x"}}
    secret = {"kind": "Secret", "data": {"sidecar.yaml": "eA=="}}
    result = check_text(write({"apiVersion": "v1", "kind": "List", "items": [good, other, bad, secret]}).encode())
    assert result.documents == 2
    assert [problem.path for problem in result.problems] == ["lifecycle.drainDelay"]


def test_json_that_yaml_cannot_read_is_read_as_json():
    text = json.dumps({"kind": "ConfigMap", "metadata": {"annotations": {"a": "\U0001f600"}}, "data": {"sidecar.yaml": WRONG}})
    assert "\\ud83d" in text
    assert places(text) == [("lifecycle.drainDelay", 1, 1)]


OURS = [DOCUMENT, WRONG, manifest(DOCUMENT), "kind: SidecarConfig\nx: [", "kind: ConfigMap\ndata:\n  a: |\n    kind: SidecarConfig\n x: ["]
OTHERS = [
    "",
    "a: 1",
    "[]",
    "kind: Deployment\nmetadata: {labels: {outrider.dev/inject: 'true'}}",
    manifest(DOCUMENT).replace("sidecar.yaml", "other.yaml"),
    "{{ if .Values.x }}\nkind: ConfigMap\n{{ end }}",
    "sidecar.yaml: {",
    "\0 kind",
    "values: {document: {kind: SidecarConfig}}",
    '{"files": ["sidecar.yaml"]}',
]


@pytest.mark.parametrize("text", OURS)
def test_what_is_ours_is_recognised_however_broken_it_is(text):
    assert check_if_ours(text.encode()) == check_text(text.encode())


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_not_ours_is_recognised_too(text):
    assert check_if_ours(text.encode()) is None


def test_a_huge_file_is_judged_by_what_it_seems_to_be():
    assert check_if_ours(b"sidecar.yaml: " + b" " * 5_000_000) is None
    (problem,) = check_if_ours(DOCUMENT.encode() + b" " * 5_000_000).problems
    assert "larger than" in problem.message


def test_a_broken_manifest_is_a_problem_of_the_manifest():
    found = check_text(manifest(DOCUMENT).encode() + b"---\nkind: [\n").problems
    assert len(found) == 1
    assert found[0].line > 9


def test_warnings_of_embedded_documents_are_told():
    text = manifest(
        DOCUMENT.replace("upstreams: [", "upstreams: [{name: b, dns: {host: b, port: 1}}, ") + "routes: [{backendRefs: [{name: b}]}]\n"
    )
    assert check_text(text.encode()).warnings == ["upstreams[1]: no route sends to app (add a route, or remove it)"]

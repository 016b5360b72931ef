import json

from sidecar.config.load import check_text

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
    assert "no ConfigMap here has the key sidecar.yaml" in problem.message


def test_a_document_that_is_a_mapping_instead_of_text_is_explained():
    (problem,) = check_text(b"kind: ConfigMap\ndata:\n  sidecar.yaml:\n    kind: SidecarConfig\n").problems
    assert "write `sidecar.yaml: |`" in problem.message


def test_binary_data_is_explained():
    (problem,) = check_text(b"kind: ConfigMap\nbinaryData:\n  sidecar.yaml: eA==\n").problems
    assert "move it to data" in problem.message


def test_a_broken_manifest_is_a_problem_of_the_manifest():
    found = check_text(manifest(DOCUMENT).encode() + b"---\nkind: [\n").problems
    assert len(found) == 1
    assert found[0].line > 9


def test_warnings_of_embedded_documents_are_told():
    text = manifest(
        DOCUMENT.replace("upstreams: [", "upstreams: [{name: b, dns: {host: b, port: 1}}, ") + "routes: [{backendRefs: [{name: b}]}]\n"
    )
    assert check_text(text.encode()).warnings == ["upstreams[1]: no route sends to app (add a route, or remove it)"]

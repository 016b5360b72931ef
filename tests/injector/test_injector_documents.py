"""Reviews of ConfigMaps, without a network: which documents are judged, and how a refusal reads."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest
from injector.injector_kit import question, warnings

from sidecar.injector import documents
from sidecar.injector.documents import Validator
from sidecar.injector.review import Review, parse
from sidecar.injector.tally import Validation

Json = dict[str, Any]
HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n"
BAD = HEAD + "listeners:\n  - name: inbound\n    prot: 15001\n"
RESOURCE = {"group": "", "version": "v1", "resource": "configmaps"}


def configmap(data: Json | None = None, *, label: str = "true", annotations: Json | None = None, **fields: Any) -> Json:
    metadata = {"name": "orders", "labels": {"outrider.dev/config": label}, "annotations": annotations or {}}
    return {"metadata": metadata, **({"data": data} if data is not None else {}), **fields}


def review(what: Json, **fields: Any) -> Review:
    return parse(json.dumps(question(what, resource=RESOURCE, **fields)).encode())


def judged(asked: Review, seconds: float = 20.0) -> tuple[Json, Validation, bytes]:
    answer, result = asyncio.run(Validator().answer(asked, "sidecar.yaml", seconds))
    return json.loads(answer)["response"], result, answer


def message(asked: Review) -> str:
    response, result, _ = judged(asked)
    assert (response["allowed"], result) == (False, Validation.INVALID)
    text: str = response["status"]["message"]
    return text


def test_a_good_document_passes() -> None:
    response, result, _ = judged(review(configmap({"sidecar.yaml": HEAD})))
    assert (response["allowed"], result) == (True, Validation.VALID)


def test_a_bad_one_is_refused_with_the_place_and_the_field_of_each_of_the_first_problems() -> None:
    lines = message(review(configmap({"sidecar.yaml": BAD + "nonsense: 1\nmore: 2\nand: 3\nstill: 4\n"}))).splitlines()
    assert lines[0].startswith("sidecar.yaml: line 4, column 5: listeners[0]") or lines[0].startswith("sidecar.yaml: line 5, column 5: ")
    assert len(lines) == documents.SHOWN + 1
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith(" more problems")


def test_binary_data_is_judged_too() -> None:
    text = message(review(configmap(binaryData={"sidecar.yaml": b64encode(BAD.encode()).decode()})))
    assert "listeners[0].prot" in text


def test_a_configmap_may_name_its_key() -> None:
    annotations = {"outrider.dev/configmap-key": "orders.yaml"}
    assert "orders.yaml: line 5" in message(review(configmap({"orders.yaml": BAD, "sidecar.yaml": HEAD}, annotations=annotations)))


def test_a_configmap_that_says_that_it_has_a_document_must_have_one() -> None:
    text = message(review(configmap({"orders.yaml": HEAD})))
    assert "no key sidecar.yaml (it has orders.yaml)" in text
    assert "outrider.dev/configmap-key" in text
    assert "(it is empty)" in message(review(configmap()))


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        (configmap({"sidecar.yaml": BAD}, label="false"), {}),
        ({"metadata": {}, "data": {"sidecar.yaml": BAD}}, {}),
        ({}, {"operation": "DELETE", "oldObject": configmap({"sidecar.yaml": BAD})}),
        (configmap({"sidecar.yaml": BAD}), {"operation": "UPDATE", "oldObject": configmap({"sidecar.yaml": BAD}, label="")}),
        ({**configmap({"sidecar.yaml": BAD}), "metadata": {**configmap()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, {}),
    ],
    ids=["label says no", "no label", "deleted", "the document stays as it was", "on its way out"],
)
def test_what_is_not_a_new_document_of_ours_passes(what: Json, fields: Json) -> None:
    response, result, _ = judged(review(what, **fields))
    assert (response["allowed"], result) == (True, Validation.NOT_OURS)


def test_an_edit_that_makes_a_document_bad_is_refused() -> None:
    old = configmap({"sidecar.yaml": HEAD})
    assert "prot" in message(review(configmap({"sidecar.yaml": BAD}), operation="UPDATE", oldObject=old))


def large(routes: int, *, bad: bool = False) -> str:
    upstream = "upstreams:\n  - name: app\n    targets: [{url: 'http://127.0.0.1:8000'}]\n"
    listed = "".join(f"  - name: r{number}\n    backendRefs: [{{name: app}}]\n" for number in range(routes))
    return HEAD + upstream + "routes:\n" + listed + ("nonsense: 1\n" if bad else "")


def test_a_large_document_is_judged_in_a_process_of_its_own() -> None:
    document = large(2000, bad=True)
    assert len(document) > documents.INLINE_BYTES
    assert "nonsense" in message(review(configmap({"sidecar.yaml": document})))


def test_one_that_takes_too_long_passes_with_a_warning() -> None:
    response, result, answer = judged(review(configmap({"sidecar.yaml": large(4000, bad=True)})), seconds=0.05)
    assert (response["allowed"], result) == (True, Validation.UNKNOWN)
    assert "has not been checked" in warnings(answer)[0]


def test_one_that_is_larger_than_a_document_may_be_is_refused() -> None:
    assert "bytes" in message(review(configmap({"sidecar.yaml": "#" * (1024 * 1024 + 1)})))


def test_what_is_legal_and_probably_not_meant_is_a_warning() -> None:
    document = large(1).replace("routes:", "  - name: nobody\n    targets: [{url: 'http://127.0.0.1:8001'}]\nroutes:")
    response, result, answer = judged(review(configmap({"sidecar.yaml": document})))
    assert (response["allowed"], result) == (True, Validation.VALID)
    assert "no route sends to nobody" in warnings(answer)[0]


@pytest.mark.parametrize("data", ["x", [], 5, {"sidecar.yaml": 5}], ids=repr)
def test_a_configmap_of_no_shape_is_told_that_it_has_no_document(data: Any) -> None:
    assert "no key sidecar.yaml" in message(review(configmap(data)))


@pytest.mark.parametrize("hostile", ["\ud800", "a: &a [*a]", "{" * 5000, "a: !!python/object:os.system x", "\x00"], ids=range(5))
def test_a_hostile_document_is_refused_like_any_other(hostile: str) -> None:
    asked = review(configmap({"sidecar.yaml": "x"}))
    asked.object["data"]["sidecar.yaml"] = hostile
    assert "sidecar.yaml: line 1" in message(asked)

"""charts/outrider-lib makes the same pods as the webhook, with Helm 3 and 4, and refuses in the same words."""

from pathlib import Path

import pytest
from injection.cases import ALONE, INJECTED, REFUSED, Case
from injection.chart_of_pods import Rendered, make_chart, render
from injection.golden import VERSION, golden, refusal
from support.programs import need_program

TRIED = [case for case in INJECTED if "helm" not in case.without]


@pytest.fixture(scope="session", params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> Path:
    return need_program(request.param)


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chart(tmp_path_factory.mktemp("chart") / "application")


@pytest.fixture(scope="session")
def rendered(helm: Path, chart: Path) -> Rendered:
    """All pods that can have a sidecar, in one go."""
    return render(helm, chart, TRIED)


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.name)
def test_helm_makes_the_golden_pod(rendered: Rendered, case: Case):
    assert rendered.error == ""
    assert rendered.pods[TRIED.index(case)] == golden(case, "chart")


@pytest.mark.parametrize("case", [case for case in REFUSED if "helm" not in case.without], ids=lambda case: case.name)
def test_what_cannot_be_ends_the_render_with_the_same_words(helm: Path, chart: Path, case: Case):
    result = render(helm, chart, [case])
    assert result.error.endswith(refusal(case))
    assert result.pods == []


@pytest.mark.parametrize("case", [case for case in ALONE if "helm" not in case.without], ids=lambda case: case.name)
def test_a_pod_that_no_sidecar_can_serve_ends_the_render(helm: Path, chart: Path, case: Case):
    assert "the pod is " in render(helm, chart, [case]).error


def test_without_values_the_chart_has_the_built_in_defaults(helm: Path, chart: Path):
    expected = golden(INJECTED[0], "chart")
    expected["spec"]["initContainers"][0]["image"] = f"outrider:{VERSION}"
    assert render(helm, chart, INJECTED[:1], values={}).pods == [expected]

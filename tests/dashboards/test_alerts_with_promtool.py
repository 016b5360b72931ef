"""Every alert in Prometheus' own unit tests: it fires when it should, not a minute before, and not for what is merely near."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import alert_cases
import pytest
import yaml
from alert_cases import AT, Case, durations, requests
from generated_files import RULES, rules
from support.programs import need_program

from charts.source import rules as source
from charts.source import slo
from charts.source.__main__ import CHART, main

MAIN = CHART / "rules/outrider.yaml"
SLO = CHART / "rules/slo.yaml"
INJECTOR = CHART / "rules/injector.yaml"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
SPEEDS = ("1h", "6h", "1d", "3d")


def promtool(*arguments: str) -> None:
    done = subprocess.run([need_program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def told(template: str, labels: dict[str, str], value: str) -> str:
    """An annotation as Prometheus renders it."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), template)
    text = re.sub(r'\{\{ or \$labels\.(\w+) "([^"]+)" \}\}', lambda found: labels.get(found[1]) or found[2], text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", value, text)


def expected(rule: dict[str, Any], labels: dict[str, str], value: str) -> dict[str, Any]:
    return {
        "exp_labels": {**{name: text for name, text in labels.items() if text}, **rule["labels"]},
        "exp_annotations": {name: told(text, labels, value) for name, text in rule["annotations"].items()},
    }


def check(folder: Path, file: Path, series: dict[str, str], expectations: list[dict[str, Any]]) -> None:
    inputs = [{"series": text, "values": values} for text, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": expectations}
    order = [group["name"] for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]  # else it is a matter of chance
    document = {"rule_files": [str(file)], "evaluation_interval": "1m", "group_eval_order": order, "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(folder / "test.yaml"))


@pytest.mark.parametrize("file", RULES, ids=[path.stem for path in RULES])
def test_rules_pass_every_lint(file: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in alert_cases.EVERY} == {name for name in ALERTS if "Budget" not in name or "Retry" in name}


@pytest.mark.parametrize("case", alert_cases.EVERY, ids=[case.alert for case in alert_cases.EVERY])
def test_an_alert_fires_for_its_trouble_and_for_nothing_else(case: Case, tmp_path: Path) -> None:
    rule = ALERTS[case.alert]
    minutes = int(rule["for"].removesuffix("m"))
    early = {"eval_time": f"{minutes - 1}m", "alertname": case.alert, "exp_alerts": []}
    late = {
        "eval_time": f"{case.long or minutes + 7}m",
        "alertname": case.alert,
        "exp_alerts": [expected(rule, case.labels, case.value)],
    }

    check(tmp_path, INJECTOR if case in alert_cases.INJECTOR else MAIN, case.series, [early, late])


def test_an_injector_that_does_its_work_alarms_nobody(tmp_path: Path) -> None:
    series = {
        'outrider_injector_ready{pod="a"}': "1+0x60",
        'outrider_injector_ready{pod="b"}': "0+0x60",
        "outrider_injector_certificate_expiry_timestamp_seconds": "600000+0x60",
        'outrider_injector_requests_total{result="injected", reason="none"}': "0+60x60",
    }
    quiet = [{"eval_time": "40m", "alertname": case.alert, "exp_alerts": []} for case in alert_cases.INJECTOR]

    check(tmp_path, INJECTOR, series, quiet)


def burning(alert: str, speeds: tuple[str, ...], value: str, at: str) -> dict[str, Any]:
    labels = {name: text for name, text in AT.items() if name != "upstream"}
    of = [rule for rule in rules() if rule.get("alert") == alert and rule["labels"]["long_window"] in speeds]
    return {"eval_time": at, "alertname": alert, "exp_alerts": [expected(rule, labels, value) for rule in of]}


@pytest.mark.parametrize(
    ("bad", "speeds", "value"),
    [(20, SPEEDS, "2%"), (7, SPEEDS[1:], "0.7%"), (4, SPEEDS[2:], "0.4%"), (2, SPEEDS[3:], "0.2%"), (0.5, (), "")],
)
def test_a_budget_that_burns_is_told_by_its_speed(bad: float, speeds: tuple[str, ...], value: str, tmp_path: Path) -> None:
    series = {**requests("orders", 1000 - bad, bad), **durations("orders", 1000 - bad, bad)}

    check(
        tmp_path,
        SLO,
        series,
        [burning("OutriderErrorBudgetBurn", speeds, value, "3h"), burning("OutriderLatencyBudgetBurn", speeds, value, "3h")],
    )


def test_a_fire_that_is_out_is_not_an_emergency_any_more(tmp_path: Path) -> None:
    series = requests("orders", 980, 20)
    failing = next(text for text in series if "503" in text)
    series[failing] = "0+20x60 1200+0x600"

    # 15 minutes after its end the fastest alert is over, after four hours only the slow leak is left.
    soon, later = (
        burning("OutriderErrorBudgetBurn", speeds, value, at)
        for speeds, value, at in ((SPEEDS[1:], "1.636%", "75m"), (SPEEDS[3:], "0.4058%", "5h"))
    )
    check(tmp_path, SLO, series, [soon, later])


def test_a_single_failure_at_night_wakes_nobody(tmp_path: Path) -> None:
    check(tmp_path, SLO, requests("orders", 0.5, 0.5), [burning("OutriderErrorBudgetBurn", (), "", "3h")])


def test_an_objective_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--slo", "0.99", "5"]) == 0
    (tmp_path / "slo.yaml").write_text(capsys.readouterr().out)
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "slo.yaml"))
    series = {**requests("orders", 980, 20), **durations("orders", 980, 20)}

    # Two per cent is twice what 99 % allows, where it was twenty times what 99.9 % does.
    alerts = ("OutriderErrorBudgetBurn", "OutriderLatencyBudgetBurn")
    check(tmp_path, tmp_path / "slo.yaml", series, [burning(alert, SPEEDS[3:], "2%", "3h") for alert in alerts])


@pytest.mark.parametrize(("objective", "threshold"), [("1", "0.5"), ("0", "0.5"), ("99.9", "0.5"), ("0.99", "0")])
def test_an_objective_that_is_none_is_refused(objective: str, threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--slo", objective, threshold])

    assert ended.value.code == 2
    assert "an objective is between 0 and 1, a threshold above 0" in capsys.readouterr().err


def test_what_the_chart_replaces_is_there_to_be_replaced() -> None:
    """Helm has no Python: the template puts its values in the place of these texts."""
    text = SLO.read_text(encoding="utf-8")
    replaced = text.replace("vector(0.999)", "vector(0.95)").replace('le="0.5"', 'le="2.5"')

    assert text.count("vector(0.999)") == 1
    assert text.count('le="0.5"') == 1
    assert replaced.split("\n", 2)[2] == source.render(slo.groups(0.95, 2.5), "").lstrip()

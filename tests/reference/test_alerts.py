"""The alerts that are handed out: they ask for what workers tell."""

from __future__ import annotations

import re
from pathlib import Path

from stem.worker.metrics import NAMES, OUTCOMES

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus-alerts.yml"


def test_alerts_name_metrics_and_outcomes_that_exist() -> None:
    rules = "\n".join(line for line in ALERTS.read_text().splitlines() if not line.lstrip().startswith("#"))
    asked = set(re.findall(r"\bstem_\w+", rules))
    outcomes = {one for said in re.findall(r'outcome=~?"([^"]+)"', rules) for one in said.split("|")}

    assert len(asked) >= 7
    assert asked <= set(NAMES), f"no worker tells {asked - set(NAMES)}"
    assert outcomes
    assert outcomes <= set(OUTCOMES)


def test_an_alert_fires_when_nobody_tells_anything() -> None:
    """What workers tell ends with them: every rule that only compares it is silent then, or falls silent."""
    rules = ALERTS.read_text()

    assert "expr: absent(stem_worker_info)" in rules
    assert "stem_queue_workers offset" not in rules, "it resolves itself when the offset has passed"


def test_each_alert_has_an_expression_a_severity_and_a_summary() -> None:
    for rule in ALERTS.read_text().split("- alert: ")[1:]:
        name = rule.splitlines()[0]
        assert re.fullmatch(r"Stem[A-Za-z]+", name)
        for part in ("expr: ", "labels: {severity: ", 'summary: "'):
            assert rule.count(part) == 1, f"{name} has no {part}"

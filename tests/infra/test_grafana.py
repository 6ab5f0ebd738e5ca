"""Metrics, labels and links of dashboards and alerts exist in the code and the runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import ray.util.metrics
import yaml

from xrec.backfill.driver import BackfillMetrics
from xrec.nights.metrics import HELP
from xrec.serve.metrics import Metrics
from xrec.train.ray_driver import TrainingMetrics

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "infra" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}
ALERTS = [
    rule
    for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [
    target["expr"]
    for dashboard in DASHBOARDS.values()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
USED = [
    (name, set(re.findall(r"(\w+)\s*[=!]", labels)))
    for expression in EXPRESSIONS
    for name, labels in re.findall(r"\b(ray_\w+)(\{[^}]*\})?", expression)
]


def series_of(*parts: object) -> Iterator[tuple[str, set[str]]]:
    """Yield the names and labels of the series that these objects' metrics have in Prometheus."""
    for value in (each for part in parts for each in vars(part).values()):
        for metric in value.values() if isinstance(value, dict) else [value]:
            if isinstance(metric, ray.util.metrics.Metric):
                ends = ("_bucket", "_sum", "_count") if "boundaries" in metric.info else ("",)
                labels = set(metric.info["tag_keys"])
                yield from ((f"ray_{metric.info['name']}{end}", labels) for end in ends)


def test_queries_use_exported_metrics_and_labels_and_dashboards_show_all():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    exported = dict(series_of(BackfillMetrics(num_pairs=1), TrainingMetrics("a-job"), Metrics()))
    of_ray = {f"ray_{name}": {"ip", "GpuIndex"} for name in METRICS_GAUGES}
    for expression in EXPRESSIONS:
        promql_parser.parse(expression)
    for name, labels in USED:
        assert labels <= (exported | of_ray)[name] | {"le"}, name
    of_nights = {name for text in EXPRESSIONS for name in re.findall(r"\bxrec_night_(\w+)", text)}
    assert of_nights <= HELP.keys()
    hidden = exported.keys() - {name for name, _ in USED}
    assert not [name for name in hidden if not name.endswith(("_sum", "_count"))]


def test_alerts_have_a_summary_and_a_section_of_the_runbook():
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings


def series(name: str, rate: int, **labels: str) -> dict[str, str]:
    """Return a counter that grows by `rate` a minute, for three hours."""
    named = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"ray_xrec_{name}{{{named}}}", "values": f"0+{rate}x180"}


PAIRS, ANSWERS = "backfill_pairs_total", "serve_requests_total"
NIGHT = [
    {"series": "xrec_night_success_timestamp_seconds", "values": "0x180"},
    {"series": "xrec_night_exit_code", "values": "0x180"},
    {"series": "xrec_night_free_share", "values": "0.5x180"},
]


def night(name: str, value: float) -> list[dict[str, str]]:
    """The metrics of a good night, one of them with another value."""
    changed = {"series": f"xrec_night_{name}", "values": f"{value}x180"}
    return [changed if each["series"] == changed["series"] else each for each in NIGHT]


LEFT = {"series": "ray_xrec_backfill_pairs_left", "values": "7x180"}


def promtool(*words: str | Path) -> None:
    """Run Prometheus' own program."""
    if (program := shutil.which("promtool")) is None:
        pytest.skip("needs promtool")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


FIRED_AND_QUIET = {
    "XrecServeErrors": ([series(ANSWERS, 2, status="500")], [series(ANSWERS, 0, status="500")]),
    "XrecNightUnknown": (NIGHT[1:], NIGHT),
    "XrecNightOld": (night("success_timestamp_seconds", -130_000), NIGHT),
    "XrecNightRefused": (night("exit_code", 3), night("exit_code", 4)),
    "XrecNightOverBudget": (night("exit_code", 4), NIGHT),
    "XrecNightFailed": (night("exit_code", 1), night("exit_code", 3)),
    "XrecNightDisk": (night("free_share", 0.05), NIGHT),
    "XrecBackfillStalled": ([LEFT, series(PAIRS, 0)], [LEFT, series(PAIRS, 1)]),
    "XrecBackfillFailing": (
        [series(PAIRS, 10, outcome="empty_text")],
        [series(PAIRS, 4, outcome="empty_text")],
    ),
}


def test_rules_are_valid_and_fire_when_they_should(tmp_path):
    """Beside 98 good answers and 90 good pairs a minute."""
    promtool("check", "rules", "--lint-fatal", GRAFANA / "alerts.yaml")
    tests = []
    for alert, (fired, quiet) in FIRED_AND_QUIET.items():
        good = [series(ANSWERS, 98, status="200")]
        good += [series(PAIRS, 90, outcome="explained")] if "Failing" in alert else []
        firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        for given, samples in ((fired, [{"labels": "{}", "value": 1}]), (quiet, [])):
            expected = {"expr": firing, "eval_time": "2h", "exp_samples": samples}
            tests.append({"input_series": good + given, "promql_expr_test": [expected]})
    values = {"rule_files": [str(GRAFANA / "alerts.yaml")], "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(values))
    promtool("test", "rules", tmp_path / "tests.yaml")

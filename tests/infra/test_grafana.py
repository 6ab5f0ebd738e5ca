"""Every metric, label and link in dashboards and alerts exists in the code and the runbook."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import promql_parser
import pytest
import ray
import yaml

import xrec.backfill.driver
import xrec.serve.metrics
import xrec.train.ray_driver
from xrec.backfill.driver import BackfillMetrics
from xrec.bulk import Progress
from xrec.serve.metrics import Metrics
from xrec.train.ray_driver import TrainingMetrics

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "infra" / "grafana"
DASHBOARDS = sorted(GRAFANA.glob("*.json"))
ALERTS = [
    rule
    for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


class Query(NamedTuple):
    """A PromQL expression and its place in a file."""

    place: str
    expr: str


def _queries() -> Iterator[Query]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield Query(f"{path.stem}: {panel['title']}", target["expr"])
    for rule in ALERTS:
        yield Query(f"alert {rule['alert']}", rule["expr"])


QUERIES = list(_queries())


def _selectors(node: Any) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the metrics of a parsed expression, each with the labels that select it."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, frozenset(matcher.name for matcher in node.matchers.matchers)
    for name in ("expr", "lhs", "rhs", "vs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str | int | float):
            yield from _selectors(child)
    for child in getattr(node, "args", []) or []:
        yield from _selectors(child)


def _used(query: Query) -> list[tuple[str, frozenset[str]]]:
    found = list(_selectors(promql_parser.parse(query.expr)))
    by_text = set(re.findall(r"\bray_\w+", query.expr))
    assert {name for name, _ in found} == by_text, "the walk over the expression missed a selector"
    return found


def _series(name: str, kind: str) -> set[str]:
    return (
        {f"ray_{name}{end}" for end in ("_bucket", "_sum", "_count")}
        if kind == "histogram"
        else {f"ray_{name}"}
    )


@pytest.fixture(scope="module")
def exported():
    """Return the labels of each series of backfill, training, serving and Ray's own agent."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    declared: dict[str, tuple[str, tuple[str, ...]]] = {}

    def declare(kind: str, name: str, *arguments: Any, **_: Any) -> Mock:
        tags = next((argument for argument in arguments if isinstance(argument, tuple)), ())
        declared[name] = (kind, tags)
        return Mock()

    with pytest.MonkeyPatch.context() as patch:
        for module in (xrec.backfill.driver, xrec.train.ray_driver, xrec.serve.metrics):
            for kind in ("Counter", "Gauge", "Histogram"):
                if hasattr(module, kind):
                    patch.setattr(module, kind, partial(declare, kind.lower()))
        BackfillMetrics(num_pairs=1)
        TrainingMetrics("a-job")
        Metrics()
    assert len(declared) == 28
    own = {
        series: frozenset(tags)
        for name, (kind, tags) in declared.items()
        for series in _series(name, kind)
    }
    return {**own, **{f"ray_{name}": frozenset({"ip", "GpuIndex"}) for name in METRICS_GAUGES}}


def test_queries_use_metrics_and_labels_that_are_exported(exported):
    for query in QUERIES:
        for name, labels in _used(query):
            assert labels <= exported[name] | {"le"}, f"{query.place}: {name}"


def test_dashboards_show_every_metric_of_ours(exported):
    used = {name for query in QUERIES for name, _ in _used(query)}
    hidden = {name for name in exported if name.startswith("ray_xrec_")} - used
    assert not [name for name in hidden if not name.endswith(("_sum", "_count"))]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_can_be_imported_and_each_panel_says_what_it_shows(path):
    dashboard = json.loads(path.read_text())
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(
        panel["description"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels
    )


def test_alerts_say_what_happened_and_the_runbook_what_to_do():
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings


def series(name: str, rate: int, **labels: str) -> dict[str, str]:
    """A counter that grows by `rate` a minute, for three hours."""
    named = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"ray_xrec_{name}{{{named}}}", "values": f"0+{rate}x180"}


PAIRS, ANSWERS = "backfill_pairs_total", "serve_requests_total"
LEFT = {"series": "ray_xrec_backfill_pairs_left", "values": "7x180"}


@pytest.mark.parametrize(
    ("alert", "fired", "quiet"),
    [
        ("XrecServeErrors", [series(ANSWERS, 2, status="500")], [series(ANSWERS, 0, status="500")]),
        ("XrecBackfillStalled", [LEFT, series(PAIRS, 0)], [LEFT, series(PAIRS, 1)]),
        (
            "XrecBackfillFailing",
            [series(PAIRS, 10, outcome="empty_text")],
            [series(PAIRS, 4, outcome="empty_text")],
        ),
    ],
)
def test_alert_fires_by_prometheus_own_program(alert, fired, quiet, tmp_path):
    """Beside 98 good answers and 90 good pairs a minute, in Prometheus' unit tests of rules."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("needs promtool")
    good = [series(ANSWERS, 98, status="200")]
    good += [series(PAIRS, 90, outcome="explained")] if "Failing" in alert else []
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    tests = []
    for given, samples in ((fired, [{"labels": "{}", "value": 1}]), (quiet, [])):
        expected = {"expr": firing, "eval_time": "2h", "exp_samples": samples}
        tests.append({"input_series": good + given, "promql_expr_test": [expected]})
    values = {"rule_files": [str(GRAFANA / "alerts.yaml")], "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(values))
    command = [promtool, "test", "rules", str(tmp_path / "tests.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_rules_are_valid_by_prometheus_own_program():
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("needs promtool")
    command = [promtool, "check", "rules", "--lint-fatal", str(GRAFANA / "alerts.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # Ray exports every 10 s
def test_series_are_named_so_when_ray_exports_them(ray_cluster, exported):
    """Compare the names above with what a Prometheus would scrape from Ray's agent."""
    backfill, training = BackfillMetrics(num_pairs=9), TrainingMetrics("train-adapter")
    costs = {"seconds": 2.0, "num_prompt_tokens": 30, "num_generated_tokens": 8}
    begun = Progress(started_at=datetime.now(UTC), written_at=datetime.now(UTC))
    serving = list(vars(Metrics()).values())
    for metric in serving:
        metric._record(0.5, dict.fromkeys(metric.info["tag_keys"], "some"))
    done = {"num_ok": 3, "failed": {"empty_text": 1}, "costs": costs, "num_deaths": 1}
    for progress in (begun, begun.model_copy(update=done)):
        backfill.record(progress)
    with training.running():
        losses = {"train_loss": 1.0, "validation_loss": 1.5, "ndcg@20": 0.1}
        training.record({"epoch": 1, "step": 4, "seconds": 2.0, **losses})
        wanted = {name for name in exported if name.startswith("ray_xrec_")}
        found: set[str] = set()
        deadline = time.monotonic() + 60
        while not wanted <= found and time.monotonic() < deadline:
            time.sleep(1)
            found = set(re.findall(r"^(ray_\w+)", _scrape(), re.MULTILINE))
    assert wanted - found == set()
    assert {"ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"} <= found


def _scrape() -> str:
    (node,) = ray.nodes()
    with urllib.request.urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10
    ) as answer:
        return str(answer.read().decode())

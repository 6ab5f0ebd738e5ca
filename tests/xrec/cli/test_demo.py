"""The demo's pieces: which jobs with which configs, and what it prints; the demo itself is slow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline import chosen_configs
from xrec.cli import demo_command
from xrec.config.base import parse_config
from xrec.config.evaluate import EvaluateConfig
from xrec.config.project import read_project
from xrec.errors import ConfigError
from xrec.evaluate.evaluation import Lineage, write_evaluation
from xrec.evaluate.metrics import compute_metrics
from xrec.evaluate.scores import Coverage, ScoredPair
from xrec.storage import Location, make_manifest, open_location

ROOT = Path(__file__).parents[3]


@pytest.fixture
def configs() -> dict[str, Any]:
    """The configs of the demo's jobs in the workspace /demo/, as plain values."""
    chosen = chosen_configs(read_project(demo_command._project_file(), ["workspace=/demo/"]))
    return {job: config.model_dump(mode="json") for job, config in chosen.items()}


def test_demo_configs_keep_everything_in_the_workspace_and_fit_together(
    configs: dict[str, Any],
) -> None:
    """aspect_accuracy and its shuffled twin compare only if both were decoded alike."""
    assert {values["workspace"] for values in configs.values()} == {"/demo/"}
    models = [values["llm"]["model"] for values in configs.values() if "llm" in values]
    assert models == ["/demo/llm"] * 3
    backfill, evaluate = configs["backfill"], configs["evaluate"]
    assert backfill["decoding"] == evaluate["decoding"]
    assert backfill["pairs"]["split"] == evaluate["split"]
    assert configs["build-sample-llm"]["prompt"] == configs["train-adapter"]["prompt"]


def test_demo_outside_a_checkout_says_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("xrec.__file__", str(tmp_path / "xrec" / "__init__.py"))
    with pytest.raises(
        ConfigError, match=r"configs/sample\.yaml: not there; the demo runs from a checkout"
    ):
        demo_command._project_file()


def _evaluation(location: Location, num_pairs: int) -> EvaluateConfig:
    workspace = location.uri.removesuffix("/evaluation")
    config = parse_config(
        EvaluateConfig,
        {
            "workspace": workspace,
            "llm": {"model": "none"},
            "encoder": None,
        },
    )
    aspects = ("late hours", "dog-friendly patio")
    pairs = [
        ScoredPair(
            user_id=f"u{number}",
            item_id="p0",
            reference=f"Reference {number} praises the late hours.",
            explanation=f"Explanation {number} praises the late hours.",
            nll_own=1.0,
            nll_shuffled=1.5,
            shuffled_explanation="It praises the dog-friendly patio.",
            aspect=aspects[0],
            aspects=aspects,
        )
        for number in range(num_pairs)
    ]
    manifest = make_manifest("graph", config={}, inputs={})
    lineage = Lineage(sources={"graph": manifest}, adapter_history=[], graph_history=[])
    write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=Coverage(num_pairs, {"names_another_item": 4}),
        lineage=lineage,
        config={},
        inputs={},
        num_examples=5,
    )
    return config


def test_demo_shows_ten_explanations_beside_their_references_the_metrics_and_the_report(
    tmp_path: Path,
) -> None:
    config = _evaluation(open_location(str(tmp_path / "evaluation")), num_pairs=23)
    out = "\n".join(demo_command._results(config))
    shown = [number for number in range(23) if f"Explanation {number} praises" in out]
    assert len(shown) == 10
    assert [number for number in range(23) if f"Reference {number} praises" in out] == shown
    accuracy = next(
        line
        for line in out.splitlines()
        if "Aspect accuracy" in line and "another" not in line and "chance" not in line
    )
    assert "1.000" in accuracy
    assert "0.500" in next(line for line in out.splitlines() if "Personalization gain" in line)
    assert "Of 27 held-out pairs of the backfill, 4 have no text" in out
    assert "4 names_another_item." in out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'evaluation' / 'report.html'}"


def test_demo_shows_all_explanations_when_there_are_few(tmp_path: Path) -> None:
    config = _evaluation(open_location(str(tmp_path / "evaluation")), num_pairs=3)
    out = "\n".join(demo_command._results(config))
    assert all(f"Explanation {number} praises" in out for number in range(3))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo_in_a_process_of_its_own_shows_that_the_signal_reaches_the_text(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "xrec.cli", "demo", "--workspace", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1100, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (metrics["title_accuracy"], metrics["names_item"]) == (1, 1)
    assert metrics["aspects_supported"] >= 0.9
    assert metrics["aspect_accuracy"] >= 0.6
    assert metrics["aspect_accuracy_shuffled"] < 0.4
    assert metrics["personalization_gain"] > 0
    assert f"report: {tmp_path}/evaluation/report.html" in done.stdout

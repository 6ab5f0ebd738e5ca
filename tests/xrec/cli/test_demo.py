"""The demo's pieces: which jobs with which configs, and what it prints; the demo itself is slow."""

import json
import re
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
from xrec.evaluate.evaluation import write_evaluation
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
    values = {"workspace": location.uri.removesuffix("/evaluation"), "llm": {"model": "none"}}
    config = parse_config(EvaluateConfig, {**values, "encoder": None})
    planted = {"aspect": "late hours", "aspects": ("late hours", "dog-friendly patio")}
    pairs = [
        ScoredPair(
            f"u{number}",
            "p0",
            reference=f"Reference {number} praises the late hours.",
            explanation=f"Explanation {number} praises the late hours.",
            nll_own=1.0,
            nll_shuffled=1.5,
            shuffled_explanation="It praises the dog-friendly patio.",
            **planted,
        )
        for number in range(num_pairs)
    ]
    write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=Coverage(num_pairs, {"names_another_item": 4}),
        sources={"graph": make_manifest("graph", config={}, inputs={})},
        config={},
        inputs={},
    )
    return config


@pytest.mark.parametrize(("num_pairs", "num_shown"), [(23, 10), (3, 3)])
def test_demo_shows_ten_explanations_beside_their_references_the_metrics_and_the_report(
    tmp_path: Path, num_pairs: int, num_shown: int
) -> None:
    config = _evaluation(open_location(str(tmp_path / "evaluation")), num_pairs)
    lines = list(demo_command._results(config))
    out = "\n".join(lines)
    shown = [number for number in range(num_pairs) if f"Explanation {number} praises" in out]
    assert len(shown) == num_shown
    assert [each for each in range(num_pairs) if f"Reference {each} praises" in out] == shown
    assert re.search(r"Aspect accuracy +1\.000", out)
    assert re.search(r"Personalization gain, nats per token +0\.500", out)
    told = f"Of {num_pairs + 4} held-out pairs of the backfill, 4 have no text"
    assert told in out
    assert "4 names_another_item." in out
    assert lines[-1] == f"report: {tmp_path / 'evaluation' / 'report.html'}"


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

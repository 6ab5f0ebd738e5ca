"""What an experiment tracker gets of a training job, and what is said if it cannot work."""

import os

import pytest

from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ConfigError
from xrec.train.tracking import tracked

ROW = {"epoch": 2, "train_loss": 1.5, "ndcg@20": 0.25, "time": 1e9, "note": "a word"}


def config(workspace, tracker):
    return TrainAdapterConfig(workspace=str(workspace), llm={"model": "toy"}, tracker=tracker)


def test_tensorboard_has_each_figure_of_an_epoch_and_the_settings(tmp_path):
    seen = []
    with tracked(config(tmp_path, "tensorboard"), "train-adapter", seen.append) as on_report:
        on_report(ROW)
    assert seen == [ROW]
    folder = tmp_path / "tensorboard" / "train-adapter"
    events = b"".join(file.read_bytes() for file in folder.rglob("events.*"))
    assert all(name in events for name in (b"train_loss", b"ndcg_at_20", b"scaling.num_workers"))
    assert b"a word" not in events


def test_mlflow_has_a_run_with_parameters_and_metrics(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    with tracked(config(tmp_path / "shop", "mlflow"), "train-adapter", print) as on_report:
        on_report(ROW)
    (run,) = mlflow.search_runs(experiment_names=["shop"], output_format="list")
    assert run.data.metrics["train_loss"] == 1.5
    assert run.data.metrics["ndcg_at_20"] == 0.25
    assert run.data.params["scaling.num_workers"] == "2"
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("tracker", "workspace", "words"),
    [
        ("wandb", "here", "tracker: wandb needs the package wandb"),
        ("tensorboard", "s3://bucket/shop", "the workspace is s3://bucket/shop"),
    ],
)
def test_a_tracker_that_cannot_work_is_named(tracker, workspace, words, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboardX" or None)
    with pytest.raises(ConfigError, match=words), tracked(config(workspace, tracker), "", print):
        pass
    assert not os.path.exists(workspace)


def test_without_a_tracker_nothing_is_made(tmp_path):
    with tracked(config(tmp_path, None), "train-adapter", print) as on_report:
        assert on_report is print
    assert not list(tmp_path.iterdir())

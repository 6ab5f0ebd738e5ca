"""Graph pretraining on a real Ray cluster: workers, early stop, artifact, a second run, wrong input."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from xrec.config import PrepareConfig, PretrainGraphConfig
from xrec.data import prepare_dataset
from xrec.data.dataset import read_dataset
from xrec.errors import ArtifactMismatchError, ConfigError, DataError, TrainingError
from xrec.graph import read_graph, recommend
from xrec.storage import Manifest, open_location
from xrec.train import graph_loop
from xrec.train.graph_loop import pretrain_graph

pytestmark = pytest.mark.usefixtures("ray_cluster")

TOWN = {"kind": "sample", "num_users": 60, "num_items": 40, "interactions_per_user": 10, "explanations_per_user": 4}
TRAINING = {"num_epochs": 4, "global_batch_size": 97, "learning_rate": 0.05}  # 97: two workers' slices differ


def make_config(workspace: str, num_workers: int = 1, storage: Any = None, **training: Any) -> PretrainGraphConfig:
    return PretrainGraphConfig.model_validate(
        {
            "workspace": workspace,
            "model": {"embedding_dim": 8, "num_layers": 2},
            "training": {**TRAINING, **training},
            "scaling": {"num_workers": num_workers, "device": "cpu", "max_failures": 0},
            **({"storage": storage} if storage else {}),
        }
    )


def prepare(workspace: str, storage: Any = None) -> None:
    prepare_dataset(PrepareConfig.model_validate({"workspace": workspace, "source": TOWN, **({"storage": storage} if storage else {})}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainGraphConfig, Manifest]:
    """Two workers, on the local disk."""
    workspace = str(tmp_path_factory.mktemp("trained"))
    prepare(workspace)
    config = make_config(workspace, num_workers=2)
    return config, pretrain_graph(config)


def test_pretrain_graph_two_workers_on_disk_equal_one_worker_on_s3(trained: tuple[PretrainGraphConfig, Manifest], s3: Any) -> None:
    bucket = s3.new_bucket()
    prepare(f"{bucket}/w", s3.storage)
    config = make_config(f"{bucket}/w", num_workers=1, storage=s3.storage)
    one = pretrain_graph(config)
    two_config, two = trained

    assert one.run == two.run
    one_graph, two_graph = open_location(f"{bucket}/w/graph", s3.storage), open_location(two_config.artifact("graph"))
    one_history, two_history = (json.loads((graph / "history.json").read_text()) for graph in (one_graph, two_graph))
    assert [row["loss"] for row in one_history] == pytest.approx([row["loss"] for row in two_history], rel=1e-4)
    assert [row["ndcg@20"] for row in one_history] == pytest.approx([row["ndcg@20"] for row in two_history], abs=1e-3)
    torch.testing.assert_close(read_graph(one_graph).users, read_graph(two_graph).users, rtol=1e-3, atol=1e-4)
    assert one_graph.files() == two_graph.files() == ["embeddings.safetensors", "history.json", "manifest.json"]


def test_pretrain_graph_learns_and_keeps_the_best_epoch(trained: tuple[PretrainGraphConfig, Manifest]) -> None:
    config, manifest = trained
    history = json.loads((open_location(config.artifact("graph")) / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert set(history[0]) == {"epoch", "loss", "recall@20", "ndcg@20", "seconds"}
    assert history[-1]["loss"] < history[0]["loss"] < 0.75
    best = max(history, key=lambda row: row["ndcg@20"])
    assert manifest.metrics["best_epoch"] == best["epoch"]
    assert manifest.metrics["validation"] == {"recall@20": best["recall@20"], "ndcg@20": best["ndcg@20"]}


def test_pretrain_graph_test_metrics_equal_recomputation_from_the_artifact(trained: tuple[PretrainGraphConfig, Manifest]) -> None:
    config, manifest = trained
    graph, dataset = read_graph(open_location(config.artifact("graph"))), read_dataset(open_location(config.artifact("dataset")))
    held_out: dict[int, set[int]] = {}
    for user, item in dataset.interaction_edges("test").T.tolist():
        held_out.setdefault(user, set()).add(item)
    users = torch.tensor(sorted(held_out))
    ranked, _ = recommend(graph, torch.from_numpy(dataset.interaction_edges("train")), users, k=20)
    recalls = [len(held_out[u] & set(row)) / len(held_out[u]) for u, row in zip(users.tolist(), ranked.tolist(), strict=True)]
    assert manifest.metrics["test"]["recall@20"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)
    assert graph.users.shape == (dataset.num_users, 8)


def test_pretrain_graph_second_run_does_no_work(trained: tuple[PretrainGraphConfig, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    config, manifest = trained
    monkeypatch.setattr(graph_loop, "fit", None)
    assert pretrain_graph(config) == manifest
    assert pretrain_graph(make_config(config.workspace, num_workers=1)) == manifest  # the workers do not change the content


def test_pretrain_graph_output_of_another_run_is_refused(trained: tuple[PretrainGraphConfig, Manifest]) -> None:
    config, manifest = trained
    with pytest.raises(ArtifactMismatchError, match=r"training\.seed: 0 there, 1 here"):
        pretrain_graph(make_config(config.workspace, seed=1))
    assert read_graph(open_location(config.artifact("graph"))).manifest == manifest


def test_pretrain_graph_early_stop_ends_all_workers_at_the_same_epoch(trained: tuple[PretrainGraphConfig, Manifest], tmp_path: Path) -> None:
    config = make_config(trained[0].workspace, num_workers=2, learning_rate=1e-9, num_epochs=50, patience=2, epochs_per_evaluation=2)
    pretrain_graph(config.model_copy(update={"graph": str(tmp_path / "graph")}))
    history = json.loads((tmp_path / "graph" / "history.json").read_text())
    assert len(history) < 25
    best = max(history, key=lambda row: row["ndcg@20"])
    assert history[-1]["epoch"] == best["epoch"] + 4  # two evaluations without gain, two epochs each
    assert all(row["epoch"] % 2 == 0 for row in history)


def test_pretrain_graph_diverging_loss_raises_training_error(trained: tuple[PretrainGraphConfig, Manifest], tmp_path: Path) -> None:
    config = make_config(trained[0].workspace, learning_rate=1e30).model_copy(update={"graph": str(tmp_path / "graph")})
    with pytest.raises(TrainingError, match=r"loss of epoch 1 is (nan|inf).*training\.learning_rate"):
        pretrain_graph(config)
    assert not (tmp_path / "graph" / "manifest.json").exists()


def test_pretrain_graph_batch_smaller_than_workers_raises_config_error(trained: tuple[PretrainGraphConfig, Manifest], tmp_path: Path) -> None:
    config = make_config(trained[0].workspace, num_workers=2, global_batch_size=1).model_copy(update={"graph": str(tmp_path / "graph")})
    with pytest.raises(ConfigError, match="cannot be split among 2 workers"):
        pretrain_graph(config)


@pytest.mark.parametrize(("split", "message"), [("train", "no training interactions"), ("validation", "no validation interactions")])
def test_pretrain_graph_empty_split_raises_data_error(
    trained: tuple[PretrainGraphConfig, Manifest], tmp_path: Path, split: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = graph_loop._edges
    monkeypatch.setattr(graph_loop, "_edges", lambda dataset, name: full(dataset, name)[:, :0] if name == split else full(dataset, name))
    config = make_config(trained[0].workspace).model_copy(update={"graph": str(tmp_path / "graph")})
    with pytest.raises(DataError, match=message):
        pretrain_graph(config)


def test_epoch_log_line_has_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="xrec"):
        graph_loop._log_epoch(1, {"epoch": 7, "loss": 0.25, "recall@20": math.pi / 10, "ndcg@20": 0.2, "seconds": 1.5})
    assert "epoch 7: loss 0.2500, recall@20 0.3142, ndcg@20 0.2000 (1.5 s)" in caplog.text

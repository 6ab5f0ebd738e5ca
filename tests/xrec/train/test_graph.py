"""Graph pretraining on a real Ray cluster: what comes out, and the same loss in any mode."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from xrec import schemas
from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import ScalingConfig
from xrec.data.dataset import read_dataset, write_dataset
from xrec.errors import ArtifactMismatchError, ConfigError, DataError, StorageError, TrainingError
from xrec.graph import read_graph, recommend
from xrec.storage import Manifest, open_location
from xrec.train.data import split_edges
from xrec.train.graph import _log_epoch, pretrain_graph, pretrained_graph
from xrec.train.graph_worker import check_convergence
from xrec.train.metrics import EVENTS, MetricsLog
from xrec.train.ray_driver import fit

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, make_graph_config: Any
) -> tuple[PretrainGraphConfig, Manifest]:
    """A graph trained by two workers on the local disk, and its config."""
    config = make_graph_config(tmp_path_factory.mktemp("trained") / "graph", num_workers=2)
    return config, pretrain_graph(config)


def metrics_of(graph: str, storage: Any = None) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (open_location(graph, storage) / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.slow
def test_pretrain_graph_two_workers_on_disk_equal_one_worker_on_s3(
    trained: tuple[PretrainGraphConfig, Manifest], s3: Any
) -> None:
    two_config, two = trained
    bucket = s3.new_bucket()
    config = two_config.model_copy(
        update={
            "graph": f"{bucket}/graph",
            "storage": s3.storage,
            "parallelism": "partitioned",
            "scaling": two_config.scaling.model_copy(update={"num_workers": 1}),
        }
    )
    one = pretrain_graph(config)
    assert one.run == two.run
    one_metrics, two_metrics = (
        metrics_of(config.artifact("graph"), s3.storage),
        metrics_of(two_config.artifact("graph")),
    )
    assert [row["loss"] for row in one_metrics] == pytest.approx(
        [row["loss"] for row in two_metrics], rel=1e-4
    )
    assert [row["ndcg@20"] for row in one_metrics] == pytest.approx(
        [row["ndcg@20"] for row in two_metrics], abs=1e-3
    )
    one_graph, two_graph = (
        open_location(config.artifact("graph"), s3.storage),
        open_location(two_config.artifact("graph")),
    )
    torch.testing.assert_close(
        read_graph(one_graph).users, read_graph(two_graph).users, rtol=1e-3, atol=1e-4
    )
    assert (
        one_graph.files()
        == two_graph.files()
        == ["embeddings.safetensors", "manifest.json", "metrics.jsonl", EVENTS]
    )


def test_pretrain_graph_learns_and_keeps_the_best_epoch(
    trained: tuple[PretrainGraphConfig, Manifest],
) -> None:
    config, manifest = trained
    metrics = metrics_of(config.artifact("graph"))
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    assert {"epoch", "loss", "learning_rate", "recall@20", "ndcg@20", "seconds", "time"} <= set(
        metrics[0]
    )
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    best = max(metrics, key=lambda row: row["ndcg@20"])
    assert manifest.metrics["best_epoch"] == best["epoch"]
    assert manifest.metrics["validation"]["recall@20"] == pytest.approx(best["recall@20"], abs=1e-6)
    assert manifest.metrics["validation"]["ndcg@20"] == pytest.approx(best["ndcg@20"], abs=1e-6)


def test_pretrain_graph_test_metrics_equal_recomputation_from_the_artifact(
    trained: tuple[PretrainGraphConfig, Manifest],
) -> None:
    config, manifest = trained
    graph, dataset = (
        read_graph(open_location(config.artifact("graph"))),
        read_dataset(open_location(config.artifact("dataset"))),
    )
    held_out: dict[int, set[int]] = {}
    for user, item in dataset.interaction_edges("test").T.tolist():
        held_out.setdefault(user, set()).add(item)
    users = torch.tensor(sorted(held_out))
    ranked, _ = recommend(graph, torch.from_numpy(dataset.interaction_edges("train")), users, k=20)
    recalls = [
        len(held_out[u] & set(row)) / len(held_out[u])
        for u, row in zip(users.tolist(), ranked.tolist(), strict=True)
    ]
    assert manifest.metrics["test"]["recall@20"] == pytest.approx(
        sum(recalls) / len(recalls), abs=1e-6
    )
    assert graph.users.shape == (dataset.num_users, 8)


def test_pretrain_graph_gives_who_has_no_edge_a_vector_of_zeros(
    make_graph_config: Any, tmp_path: Path
) -> None:
    config = make_graph_config(tmp_path / "graph", num_epochs=1)
    town = read_dataset(open_location(config.artifact("dataset")))
    rows, manifest = town.interactions, town.manifest
    of_stranger = pc.and_(pc.equal(rows["user_index"], 3), pc.equal(rows["split"], "train"))
    tables = {name: getattr(town, name) for name in ("users", "items", "explanations")}
    write_dataset(
        open_location(str(tmp_path / "dataset")),
        {**tables, "interactions": rows.filter(pc.invert(of_stranger))},
        schemas.REJECTED.empty_table(),
        config=manifest.config,
        inputs=manifest.inputs,
        metrics=manifest.metrics,
    )
    model = config.model.model_copy(update={"initialization": "random"})
    update = {"dataset": str(tmp_path / "dataset"), "model": model}
    pretrain_graph(config.model_copy(update=update))
    users = read_graph(open_location(str(tmp_path / "graph"))).users
    assert (users == 0).all(dim=1).nonzero().flatten().tolist() == [3]


def test_pretrain_graph_second_run_does_no_work(
    trained: tuple[PretrainGraphConfig, Manifest],
    make_graph_config: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, manifest = trained
    monkeypatch.setattr("xrec.train.graph.fit", None)
    assert pretrain_graph(config) == manifest
    # Workers, their mode and how often they save do not change the content.
    assert (
        pretrain_graph(make_graph_config(config.graph, 1, "partitioned", epochs_per_checkpoint=3))
        == manifest
    )


def test_pretrain_graph_output_of_another_run_is_refused(
    trained: tuple[PretrainGraphConfig, Manifest], make_graph_config: Any
) -> None:
    config, manifest = trained
    with pytest.raises(ArtifactMismatchError, match=r"training\.seed: 0 there, 1 here"):
        pretrain_graph(make_graph_config(config.graph, seed=1))
    assert read_graph(open_location(config.artifact("graph"))).manifest == manifest


@pytest.mark.slow
def test_pretrain_graph_early_stop_ends_all_workers_at_the_same_epoch(
    make_graph_config: Any, tmp_path: Path
) -> None:
    config = make_graph_config(
        tmp_path / "graph",
        num_workers=2,
        learning_rate=1e-9,
        num_epochs=50,
        patience=2,
        epochs_per_evaluation=2,
    )
    manifest = pretrain_graph(config)
    metrics = metrics_of(config.artifact("graph"))
    assert (
        metrics[-1]["epoch"] == manifest.metrics["best_epoch"] + 4
    )  # two evaluations without gain, two epochs each
    assert [row["epoch"] for row in metrics if "ndcg@20" in row] == list(
        range(2, metrics[-1]["epoch"] + 1, 2)
    )


@pytest.mark.slow
def test_pretrain_graph_diverging_loss_raises_training_error(
    make_graph_config: Any, tmp_path: Path
) -> None:
    config = make_graph_config(tmp_path / "graph", learning_rate=1e30, loss={"kind": "bpr"})
    with pytest.raises(
        TrainingError, match=r"loss of epoch 1 is (nan|inf).*training\.learning_rate"
    ):
        pretrain_graph(config)
    assert not (tmp_path / "graph" / "manifest.json").exists()


def test_pretrain_graph_fewer_nodes_than_partitions_raises_config_error(
    make_graph_config: Any, tmp_path: Path
) -> None:
    config = make_graph_config(tmp_path / "graph", num_workers=102, parallelism="partitioned")
    with pytest.raises(ConfigError, match="101 nodes cannot be partitioned among 102 workers"):
        pretrain_graph(config)


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no training interactions"), ("validation", "no validation interactions")],
)
def test_pretrain_graph_empty_split_raises_data_error(
    make_graph_config: Any,
    tmp_path: Path,
    split: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = split_edges
    monkeypatch.setattr(
        "xrec.train.graph.split_edges",
        lambda dataset, name: full(dataset, name)[:, :0] if name == split else full(dataset, name),
    )
    with pytest.raises(DataError, match=message):
        pretrain_graph(make_graph_config(tmp_path / "graph"))


def test_pretrain_graph_is_this_drivers_until_the_artifact_is_written(
    make_graph_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large graph the last ranking takes longer than the lease of the training."""
    config = make_graph_config(tmp_path / "graph")
    dataset = read_dataset(open_location(config.artifact("dataset")))
    vectors = torch.zeros(dataset.num_users + dataset.num_items, 4)
    held: list[bool] = []

    def rank(*arguments: object) -> dict[str, Any]:
        held.append("xrec-lease" in [thread.name for thread in threading.enumerate()])
        return {}

    trained = (SimpleNamespace(history=[]), vectors)
    monkeypatch.setattr("xrec.train.graph._train", lambda *arguments: trained)
    monkeypatch.setattr("xrec.train.graph._final_metrics", rank)
    pretrain_graph(config)
    assert held == [True]
    assert not (tmp_path / "graph" / "checkpoints").exists()


@pytest.mark.slow
def test_pretrain_graph_interrupted_at_the_very_end_only_writes_the_artifact(
    make_graph_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_graph_config(tmp_path / "graph", num_epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            "xrec.train.graph.write_graph",
            lambda *args, **kwargs: (_ for _ in ()).throw(StorageError("full")),
        )
        with pytest.raises(StorageError, match="full"):
            pretrain_graph(config)
    before = metrics_of(config.artifact("graph"))
    with pytest.raises(
        ArtifactMismatchError,
        match=r"checkpoints: holds another run, begun and not finished:"
        r"(.|\n)*training\.num_epochs: 2 there, 3 here",
    ):
        pretrained_graph(make_graph_config(tmp_path / "graph", num_epochs=3))
    manifest = pretrain_graph(config)
    assert metrics_of(config.artifact("graph")) == before  # times too: no epoch was trained again
    assert manifest.metrics["best_epoch"] in (1, 2)
    assert not (tmp_path / "graph" / "checkpoints").exists()


def test_epoch_log_line_has_the_numbers(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    log = MetricsLog(open_location(str(tmp_path)))
    with caplog.at_level("INFO", logger="xrec"):
        _log_epoch(
            log,
            {
                "epoch": 7,
                "loss": 0.25,
                "recall@20": 0.31416,
                "ndcg@20": 0.2,
                "seconds": 1.5,
                "time": 0.0,
            },
        )
        _log_epoch(log, {"epoch": 8, "loss": 0.125, "seconds": 1.5, "time": 0.0})
    assert "epoch 7: loss 0.2500, recall@20 0.3142, ndcg@20 0.2000 (1.5 s)" in caplog.text
    assert "epoch 8: loss 0.1250 (1.5 s)" in caplog.text


NUM_STEPS = 20
SOFTMAX = {
    "training": {"learning_rate": 0.05}
}  # gradients of norms above 1, which DeepSpeed would clip
BPR = {
    "training": {
        "loss": {"kind": "bpr"},
        "warmup_steps": 5,
        "l2_weight": 1e-2,
        "learning_rate": 0.05,
    },
    "model": {"initialization": "random"},
}
# Replicated comes first, because what DeepSpeed learns of partitioned workers stays in the process.
CASES = [(mode, settings) for mode in ("replicated", "partitioned") for settings in (SOFTMAX, BPR)]


def losses_by_step(loop_config: dict[str, Any]) -> None:
    """Train each config for 20 epochs of one step in this worker, and report all losses."""
    from xrec.data.dataset import read_dataset
    from xrec.storage import open_location
    from xrec.train.data import split_edges
    from xrec.train.graph_worker import GraphWorker
    from xrec.train.ray_worker import report

    losses = []
    for config in loop_config["configs"]:
        dataset = read_dataset(open_location(config.artifact("dataset")))
        worker = GraphWorker(
            config, split_edges(dataset, "train"), dataset.num_users, dataset.num_items, "run"
        )
        losses.append(
            [worker.train_epoch(epoch)[0] for epoch in range(1, loop_config["num_steps"] + 1)]
        )
    report({"epoch": 1, "losses": losses}, {"none": b""})


def run(workspace: str, folder: Path, num_workers: int) -> list[list[float]]:
    configs = [_config(workspace, mode, settings) for mode, settings in CASES]
    outcome = fit(
        losses_by_step,
        {"configs": configs, "num_steps": NUM_STEPS},
        scaling=ScalingConfig(num_workers=num_workers, device="cpu", max_failures=0),
        storage=open_location(str(folder)),
        name="losses",
    )
    losses: list[list[float]] = outcome.metrics["losses"]
    return losses


def _config(workspace: str, parallelism: str, settings: dict[str, Any]) -> PretrainGraphConfig:
    training = {
        "num_epochs": NUM_STEPS,
        "steps_per_epoch": 1,
        "micro_batch_size": 31,
        **settings["training"],
    }
    model = {"embedding_dim": 8, **settings.get("model", {})}
    return PretrainGraphConfig.model_validate(
        {"workspace": workspace, "parallelism": parallelism, "model": model, "training": training}
    )


@pytest.fixture(scope="module")
def one_worker(
    ray_cluster: None, town: str, tmp_path_factory: pytest.TempPathFactory
) -> list[list[float]]:
    return run(town, tmp_path_factory.mktemp("one"), 1)


def test_loss_of_one_worker_falls_and_no_mode_changes_it(one_worker: list[list[float]]) -> None:
    softmax, bpr, partitioned_softmax, partitioned_bpr = one_worker
    assert len(softmax) == NUM_STEPS
    assert softmax[-1] < softmax[0]
    assert bpr[-1] < bpr[0]
    assert partitioned_softmax == pytest.approx(softmax, rel=1e-6)
    assert partitioned_bpr == pytest.approx(bpr, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 4])
def test_loss_at_each_step_is_that_of_one_worker(
    one_worker: list[list[float]], town: str, tmp_path: Path, num_workers: int
) -> None:
    for (mode, settings), losses, alone in zip(
        CASES, run(town, tmp_path, num_workers), one_worker, strict=True
    ):
        assert losses == pytest.approx(alone, rel=1e-4), (mode, settings)


def test_loss_far_above_the_first_epochs_stops_training() -> None:
    check_convergence(7, loss=1.4, first_loss=0.7)
    with pytest.raises(
        TrainingError,
        match=r"loss of epoch 7 is 2\.8000, that of epoch 1 was 0\.7000.*training\.learning_rate",
    ):
        check_convergence(7, loss=2.8, first_loss=0.7)

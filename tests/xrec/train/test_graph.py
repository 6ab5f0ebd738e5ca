"""Graph pretraining on a real Ray cluster: what comes out, and the same loss in any mode."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from tests.fake_gpu import CPU
from tests.xrec.train.conftest import assert_same_epochs, metrics_of, write_town
from tests.xrec.train.one_gpu_worker import become_worker
from xrec.data.dataset import edges_of, read_dataset
from xrec.errors import ArtifactMismatchError, ConfigError, DataError, StorageError, TrainingError
from xrec.graph.artifact import read_graph
from xrec.graph.aspects import AspectEdges
from xrec.graph.leave_out import read_training_vectors
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.storage import open_location
from xrec.train.graph import pretrain_graph, pretrained_graph
from xrec.train.graph_model import AspectLoss, GraphData, split_edges
from xrec.train.graph_worker import GraphWorker, check_convergence
from xrec.train.ray_driver import TrainingOutcome, fit

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_graph_config):
    """A graph trained by two workers on the local disk, and its config."""
    config = make_graph_config(tmp_path_factory.mktemp("trained") / "graph", num_workers=2)
    return config, pretrain_graph(config)


def without_training(
    patch: pytest.MonkeyPatch, vectors: torch.Tensor, rank: Callable[..., dict[str, Any]]
) -> None:
    """The driver alone: its workers have trained `vectors`, and `rank` gives its last figures."""
    trained = (SimpleNamespace(history=[]), vectors, vectors.clone())
    patch.setattr("xrec.train.graph._train", lambda *arguments: trained)
    patch.setattr("xrec.train.graph._final_metrics", rank)


def test_pretrain_graph_learns_and_keeps_the_best_epoch(trained):
    config, manifest = trained
    metrics = metrics_of(config.artifact("graph"))
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "recall@20", "seconds", "time"} <= metrics[0].keys()
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    best = max(metrics, key=lambda row: row["ndcg@20"])
    assert manifest.metrics["best_epoch"] == best["epoch"]
    for name in ("recall@20", "ndcg@20"):
        assert manifest.metrics["validation"][name] == pytest.approx(best[name], abs=1e-6)


def test_pretrain_graph_test_metrics_equal_recomputation_from_the_artifact(trained):
    config, manifest = trained
    graph = read_graph(open_location(config.artifact("graph")))
    dataset = read_dataset(open_location(config.artifact("dataset")))
    held_out: dict[int, set[int]] = {}
    for user, item in dataset.interaction_edges("test").T.tolist():
        held_out.setdefault(user, set()).add(item)
    users = torch.tensor(sorted(held_out))
    seen = SeenItems(torch.from_numpy(dataset.interaction_edges("train")))
    ((_, ranked, _),) = top_k_items(graph.users, graph.items, seen, users, 20)
    recalls = [
        len(held_out[user] & set(row)) / len(held_out[user])
        for user, row in zip(users.tolist(), ranked.tolist(), strict=True)
    ]
    expected = sum(recalls) / len(recalls)
    assert manifest.metrics["test"]["recall@20"] == pytest.approx(expected, abs=1e-6)
    assert graph.users.shape == (dataset.num_users, 8)


def test_pretrain_graph_gives_who_has_no_edge_a_vector_of_zeros(
    make_graph_config, town, tmp_path, monkeypatch
):
    source = read_dataset(open_location(f"{town}/dataset"))
    rows = source.interactions
    of_stranger = pc.and_(pc.equal(rows["user_index"], 3), pc.equal(rows["split"], "train"))
    write_town(tmp_path, source, {"interactions": rows.filter(pc.invert(of_stranger))})
    without_training(monkeypatch, torch.ones(101, 4), lambda *arguments: {})
    pretrain_graph(make_graph_config(tmp_path / "graph", workspace=str(tmp_path)))
    graph = read_graph(open_location(str(tmp_path / "graph")))
    assert (torch.cat([graph.users, graph.items]) == 0).all(dim=1).nonzero().tolist() == [[3]]


def test_pretrain_graph_second_run_does_no_work_and_another_run_is_refused(
    trained, make_graph_config, monkeypatch
):
    config, manifest = trained
    assert config.graph is not None
    monkeypatch.setattr("xrec.train.graph.fit", None)
    assert pretrain_graph(config) == manifest
    # Workers, their mode and how often they save do not change the content.
    same = make_graph_config(config.graph, 1, "partitioned", epochs_per_checkpoint=3)
    assert pretrain_graph(same) == manifest
    with pytest.raises(ArtifactMismatchError, match=r"training\.seed: 0 there, 1 here"):
        pretrain_graph(make_graph_config(config.graph, seed=1))
    assert read_graph(open_location(config.graph)).manifest == manifest


@pytest.mark.parametrize(
    ("dataset", "dim", "message"),
    [
        ("0" * 16, 8, r"is of dataset 0{16}, which .*/dataset does not extend"),
        (None, 5, "is of 8 dimensions, and model.embedding_dim is 5"),
    ],
)
def test_start_from_a_graph_that_does_not_fit_is_refused(
    trained, make_graph_config, tmp_path, dataset, dim, message
):
    _, manifest = trained
    inputs = {"dataset": dataset or manifest.inputs["dataset"]}
    earlier = manifest.model_copy(update={"inputs": inputs})
    (tmp_path / "manifest.json").write_bytes(earlier.to_bytes())
    config = make_graph_config(tmp_path / "graph", model={"embedding_dim": dim})
    with pytest.raises(ArtifactMismatchError, match=message):
        pretrained_graph(config.model_copy(update={"start_from": str(tmp_path)}))
    assert not (tmp_path / "graph").exists()


@pytest.mark.slow
def test_pretrain_graph_with_folds_has_vectors_of_training_pairs_that_have_not_seen_them(
    make_graph_config, town, tmp_path, monkeypatch
):
    config, began = make_graph_config(tmp_path / "graph", folds=2), list[str]()

    def fit_but_once(*arguments: Any, **options: Any) -> TrainingOutcome:
        began.append(options["name"])
        if len(began) == 3:
            raise TrainingError("stopped before the second fold")
        return fit(*arguments, **options)

    monkeypatch.setattr("xrec.train.graph.fit", fit_but_once)
    with pytest.raises(TrainingError, match="stopped before"):
        pretrain_graph(config)
    manifest = pretrain_graph(config)
    assert len(set(began[:3])) == 3
    assert began[3:] == began[:3]  # what is done is not done again, but for reading it
    location = open_location(str(tmp_path / "graph"))
    dataset = read_dataset(open_location(f"{town}/dataset"))
    graph = read_graph(location)
    vectors = read_training_vectors(location, graph.manifest)
    pairs = torch.from_numpy(edges_of(dataset.explained_pairs("train")))
    assert vectors.users.shape == (pairs.shape[1], 8)
    own = (graph.users[pairs[0]] * graph.items[pairs[1]]).sum(dim=1)
    without = (vectors.users * vectors.items).sum(dim=1)
    assert own.mean() > without.mean()  # the whole graph was trained to score these pairs highly
    names = {"embeddings", "layer0", "training_vectors"}
    assert manifest.files.keys() == {f"{name}.safetensors" for name in names}
    monkeypatch.setattr("xrec.train.graph.fit", None)
    assert pretrain_graph(config) == manifest


@pytest.mark.slow
def test_pretrain_graph_early_stop_ends_all_workers_at_the_same_epoch(make_graph_config, tmp_path):
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
    last = metrics[-1]["epoch"]
    assert last == manifest.metrics["best_epoch"] + 4  # two evaluations without gain
    assert [row["epoch"] for row in metrics if "ndcg@20" in row] == list(range(2, last + 1, 2))


@pytest.mark.slow
def test_pretrain_graph_loss_that_is_no_number_raises_training_error(make_graph_config, tmp_path):
    config = make_graph_config(tmp_path / "graph", learning_rate=1e30, loss={"kind": "bpr"})
    with pytest.raises(
        TrainingError, match=r"loss of epoch 1 is (nan|inf).*training\.learning_rate"
    ):
        pretrain_graph(config)
    assert not (tmp_path / "graph" / "manifest.json").exists()


def test_loss_far_above_the_first_epochs_stops_training():
    check_convergence(7, loss=1.4, first_loss=0.7)
    with pytest.raises(
        TrainingError,
        match=r"loss of epoch 7 is 2\.8000, that of epoch 1 was 0\.7000.*training\.learning_rate",
    ):
        check_convergence(7, loss=2.8, first_loss=0.7)


@pytest.mark.parametrize(
    ("changes", "empty", "error", "message"),
    [
        (
            {"num_workers": 102, "parallelism": "partitioned"},
            None,
            ConfigError,
            "101 nodes cannot be partitioned among 102 workers",
        ),
        ({}, "train", DataError, "no training interactions"),
        ({}, "validation", DataError, "no validation interactions"),
        ({"model": {"aspects": True}}, None, DataError, "the dataset has no aspects"),
    ],
)
def test_pretrain_graph_refuses_before_workers_start(
    make_graph_config, town, tmp_path, monkeypatch, changes, empty, error, message
):
    write_town(tmp_path, read_dataset(open_location(f"{town}/dataset")), {})
    full: Callable[..., torch.Tensor] = split_edges

    def edges(dataset: Any, name: Any) -> torch.Tensor:
        return full(dataset, name)[:, :0] if name == empty else full(dataset, name)

    for module in ("graph", "graph_model"):
        monkeypatch.setattr(f"xrec.train.{module}.split_edges", edges)
    monkeypatch.setattr("xrec.train.graph.fit", None)
    with pytest.raises(error, match=message):
        pretrain_graph(make_graph_config(tmp_path / "graph", workspace=str(tmp_path), **changes))


def test_pretrain_graph_is_this_drivers_until_the_artifact_is_written(
    make_graph_config, tmp_path, monkeypatch
):
    """Of a large graph the last ranking takes longer than the lease of the training."""
    held: list[bool] = []

    def rank(*arguments: object) -> dict[str, Any]:
        held.append("xrec-lease" in [thread.name for thread in threading.enumerate()])
        return {}

    without_training(monkeypatch, torch.zeros(101, 4), rank)
    pretrain_graph(make_graph_config(tmp_path / "graph"))
    assert held == [True]
    assert not (tmp_path / "graph" / "checkpoints").exists()


@pytest.mark.slow
def test_pretrain_graph_interrupted_at_the_very_end_only_writes_the_artifact(
    make_graph_config, tmp_path, monkeypatch
):
    def write(*arguments: object, **settings: object) -> None:
        raise StorageError("full")

    config = make_graph_config(tmp_path / "graph", num_epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("xrec.train.graph.write_graph", write)
        with pytest.raises(StorageError, match="full"):
            pretrain_graph(config)
    ended = time.time()  # no epoch is trained again
    with pytest.raises(
        ArtifactMismatchError,
        match=r"checkpoints: holds another run of kind graph, begun and not finished:"
        r"(.|\n)*training\.num_epochs: 2 there, 3 here",
    ):
        pretrained_graph(make_graph_config(tmp_path / "graph", num_epochs=3))
    pretrain_graph(config)
    assert all(row["time"] < ended for row in metrics_of(config.artifact("graph")))
    assert not (tmp_path / "graph" / "checkpoints").exists()


# Aspects


def test_loss_grows_with_the_weight_of_the_aspects_loss_in_proportion(
    town_with_aspects, make_graph_config, tmp_path, monkeypatch
):
    losses = []
    for weight in (0.0, 0.1, 0.2):
        monkeypatch.setattr("xrec.train.graph_model.ASPECT_LOSS_WEIGHT", weight)
        config = make_graph_config(
            tmp_path / "graph",
            workspace=town_with_aspects,
            model={"aspects": True},
            steps_per_epoch=1,
        )
        become_worker(monkeypatch, tmp_path / str(weight), CPU)
        dataset = read_dataset(open_location(config.artifact("dataset")))
        worker = GraphWorker(config, GraphData.of(dataset, with_aspects=True), "run")
        losses.append(worker.train_epoch(1)[0])
    without, once, twice = losses  # each is of the start, before the first step
    assert once - without > 0.01
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-3)


def test_users_who_mention_every_aspect_have_no_loss_and_the_others_do(make_graph_config):
    config = make_graph_config(
        "unused", model={"aspects": True}, loss={"kind": "bpr"}, steps_per_epoch=1
    )
    nodes, aspects = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 1])
    edges = AspectEdges(nodes, aspects, torch.ones(4), 2)
    loss = AspectLoss(GraphData(torch.zeros(2, 0), 2, 1, edges), config)
    (batch,) = loss.batches(1, most=10)
    (micro_batch,) = batch.micro_batches
    assert sorted(micro_batch.users.tolist()) == [1, 2]  # user 0 mentions both
    assert (micro_batch.negatives != micro_batch.pos_items).all()


# Any number of workers, in either mode

BPR: dict[str, Any] = {
    "loss": {"kind": "bpr"},
    "l2_weight": 1e-2,
    "model": {"initialization": "random"},
}
WITH_ASPECTS: dict[str, Any] = {"model": {"aspects": True}}
MODES: list[Any] = [(3, "replicated"), (2, "partitioned"), (3, "partitioned")]


@pytest.fixture(scope="module", params=[{}, BPR, WITH_ASPECTS], ids=["softmax", "bpr", "aspects"])
def of_one_worker(request, town_with_aspects, make_graph_config, tmp_path_factory):
    """The settings of a training, and its graph of one worker."""
    settings = {"workspace": town_with_aspects, "epochs_per_checkpoint": 4, **request.param}
    graph = str(tmp_path_factory.mktemp("one") / "graph")
    pretrain_graph(make_graph_config(graph, **settings))
    return settings, graph


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "mode"), MODES)
def test_graph_of_several_workers_is_that_of_one(
    of_one_worker, make_graph_config, s3, num_workers, mode
):
    settings, alone = of_one_worker
    graph = f"{s3.new_bucket()}/graph"
    config = make_graph_config(graph, num_workers, mode, **settings)
    pretrain_graph(config.model_copy(update={"storage": s3.storage}))
    assert_same_epochs(metrics_of(graph, s3.storage), metrics_of(alone))
    found, one = read_graph(open_location(graph, s3.storage)), read_graph(open_location(alone))
    assert found.manifest.run == one.manifest.run
    found.check_finite()
    for name in ("users", "items", "aspects"):
        pair = [getattr(each, name) for each in (found, one)]
        assert (pair[0] is None) == (pair[1] is None)
        if pair[0] is not None:
            torch.testing.assert_close(*pair, rtol=1e-2, atol=1e-3)
    files = ["embeddings.safetensors", "layer0.safetensors", "manifest.json", "metrics.jsonl"]
    assert open_location(graph, s3.storage).files() == files

"""Graph pretraining: its artifact, any number of workers, resumed runs, and a worker's memory.

Workers are this process with the real DeepSpeed, or processes on a real Ray cluster.
"""

import functools
import time
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pyarrow.compute as pc
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.errors import raises
from tests.world.program import at_message
from tests.world.town import dataset_in, rewrite_dataset
from tests.xrec.graph.test_partition import in_threads
from tests.xrec.train.conftest import assert_same_epochs, metrics_of, worker_killed_at
from tests.xrec.train.worker import fit_here, train_here
from xrec.config import PretrainGraphConfig
from xrec.data import edges_of, read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ConfigError,
    DataError,
    LeaseError,
    StorageError,
    TrainingError,
)
from xrec.graph.adjacency import distinct_edges
from xrec.graph.artifact import read_graph
from xrec.graph.aspects import AspectEdges
from xrec.graph.leave_out import read_training_vectors
from xrec.graph.lightgcn import LightGCN
from xrec.graph.partition import Partition
from xrec.graph.ranking import SeenItems, ranking_report, top_k_items
from xrec.graph.ranking import metrics_of as ranking_metrics
from xrec.graph.sampling import epoch_batches
from xrec.graph.step import Scored, batch_losses
from xrec.storage import Location, location_of, only_driver, open_location
from xrec.train.graph import pretrain_graph
from xrec.train.graph_model import (
    GraphData,
    HeldOut,
    K,
    build_objective,
    build_partition,
    split_edges,
    start_embeddings,
)
from xrec.train.graph_worker import check_convergence


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_graph_config):
    """The config and manifest of a graph that was trained in this process."""
    config = make_graph_config(tmp_path_factory.mktemp("trained") / "graph")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.train.graph.fit", fit_here)
        return config, pretrain_graph(config)


def test_pretrain_graph_learns_and_reports_the_metrics_of_the_artifact_of_its_best_epoch(trained):
    config, manifest = trained
    rows = metrics_of(config.artifact("graph"))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "recall@20", "seconds", "time"} <= rows[0].keys()
    assert rows[-1]["loss"] < rows[0]["loss"]
    best = max(rows, key=lambda row: row["ndcg@20"])
    assert manifest.metrics["best_epoch"] == best["epoch"]
    for name in ("recall@20", "ndcg@20"):
        assert manifest.metrics["validation"][name] == pytest.approx(best[name], abs=1e-6)

    graph = read_graph(open_location(config.artifact("graph")))
    dataset = read_dataset(open_location(config.artifact("dataset")))
    seen, held_out = (split_edges(dataset, split) for split in ("train", "test"))
    report = ranking_report(graph.users, graph.items, seen, held_out)
    assert manifest.metrics["test"] == pytest.approx(report, abs=1e-6)


def test_training_that_was_stopped_ends_like_an_uninterrupted_one(make_graph_config, tmp_path):
    config = make_graph_config(tmp_path / "graph", l2_weight=1e-2)
    whole = train_here(tmp_path / "whole", config)
    stopped = train_here(tmp_path / "resumed", config, lambda row: row["epoch"] == 4)
    assert [row["epoch"] for row in stopped.history] == [1, 2, 3]  # epoch 4 is lost
    with raises(ArtifactMismatchError, "checkpoint_of_another_run", saw="run"):
        train_here(tmp_path / "resumed", config, run="another")
    resumed = train_here(tmp_path / "resumed", config)
    assert resumed.history[:3] == stopped.history
    assert_same_epochs(resumed.history, whole.history)
    found, expected = (
        safetensors.torch.load_file(each.checkpoint / "rows-00000.safetensors")
        for each in (resumed, whole)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_pretrain_graph_gives_zeros_to_users_without_an_edge(
    make_graph_config, town, tmp_path, monkeypatch
):
    source = dataset_in(town)
    rows = source.interactions
    of_stranger = pc.and_(pc.equal(rows["user_index"], 3), pc.equal(rows["split"], "train"))
    rewrite_dataset(tmp_path, source, {"interactions": rows.filter(pc.invert(of_stranger))})
    monkeypatch.setattr("xrec.train.graph.fit", fit_here)
    config = make_graph_config(tmp_path / "graph", workspace=str(tmp_path), num_epochs=1)
    pretrain_graph(config)
    graph = read_graph(open_location(str(tmp_path / "graph")))
    assert (torch.cat([graph.users, graph.items]) == 0).all(dim=1).nonzero().tolist() == [[3]]


def test_pretrain_graph_second_run_does_no_work_and_another_run_is_refused(
    trained, make_graph_config, monkeypatch
):
    config, manifest = trained
    monkeypatch.setattr("xrec.train.graph.fit", None)
    assert pretrain_graph(config) == manifest
    same = make_graph_config(config.artifact("graph"), 2)  # workers do not change the content
    assert pretrain_graph(same) == manifest
    with raises(ArtifactMismatchError, "another_run", "training.seed"):
        pretrain_graph(make_graph_config(config.artifact("graph"), seed=1))
    assert read_graph(location_of(config, "graph")).manifest == manifest


@pytest.mark.parametrize(
    ("dataset", "dim", "saw"),
    [("0" * 16, 8, "0" * 16), (None, 5, 8)],
)
def test_graph_that_does_not_fit_is_refused_as_a_start(
    trained, make_graph_config, tmp_path, dataset, dim, saw
):
    _, manifest = trained
    inputs = {"dataset": dataset or manifest.inputs["dataset"]}
    earlier = manifest.model_copy(update={"inputs": inputs})
    (tmp_path / "manifest.json").write_bytes(earlier.to_bytes())
    config = make_graph_config(tmp_path / "graph", model={"embedding_dim": dim})
    with raises(ArtifactMismatchError, "start_does_not_fit", "start_from", saw):
        pretrain_graph(config.model_copy(update={"start_from": str(tmp_path)}))
    assert not (tmp_path / "graph").exists()


def test_pretrain_graph_with_folds_has_vectors_that_have_not_seen_their_pair(
    make_graph_config, town, tmp_path, monkeypatch
):
    config, began = make_graph_config(tmp_path / "graph", folds=2), list[str]()

    def fit_but_once(*arguments: Any, **options: Any) -> Location:
        began.append(options["name"])
        if len(began) == 3:
            raise TrainingError("stopped before the second fold")
        return fit_here(*arguments, **options)

    monkeypatch.setattr("xrec.train.graph.fit", fit_but_once)
    with pytest.raises(TrainingError, match="stopped before"):
        pretrain_graph(config)
    manifest = pretrain_graph(config)
    assert len(set(began[:3])) == 3
    assert began[3:] == began[:3]  # finished ones are only read
    location, dataset = open_location(str(tmp_path / "graph")), dataset_in(town)
    graph = read_graph(location)
    vectors = read_training_vectors(location, graph.manifest)
    pairs = torch.from_numpy(edges_of(dataset.explained_pairs("train")))
    assert vectors.users.shape == (pairs.shape[1], 8)
    own = (graph.users[pairs[0]] * graph.items[pairs[1]]).sum(dim=1)
    without = (vectors.users * vectors.items).sum(dim=1)
    assert own.mean() > without.mean()  # the whole graph was trained to score these pairs highly
    names = {"embeddings", "layer0", "training_vectors"}
    assert manifest.files.keys() == {f"{name}.safetensors" for name in names}


def test_training_without_gain_ends_when_patience_runs_out(make_graph_config, tmp_path):
    every_other = {"num_epochs": 50, "patience": 2, "epochs_per_evaluation": 2}
    config = make_graph_config(tmp_path / "graph", learning_rate=1e-9, **every_other)
    history = train_here(tmp_path, config).history
    scores = {row["epoch"]: row["ndcg@20"] for row in history if "ndcg@20" in row}
    best = max(scores, key=scores.__getitem__)
    assert history[-1]["epoch"] == best + 4  # two evaluations without gain
    assert list(scores) == list(range(2, best + 5, 2))


def test_training_ends_if_the_loss_is_not_finite_or_far_above_the_first_epochs(
    make_graph_config, tmp_path
):
    config = make_graph_config(tmp_path / "graph", learning_rate=1e30, loss="bpr")
    with raises(TrainingError, "loss_not_finite", "training.learning_rate"):
        train_here(tmp_path, config)
    check_convergence(7, loss=1.4, first_loss=0.7)
    with raises(TrainingError, "training_diverges", "training.learning_rate", saw=2.8):
        check_convergence(7, loss=2.8, first_loss=0.7)


@pytest.mark.parametrize(
    ("changes", "empty", "error", "code"),
    [
        ({"num_workers": 102}, None, ConfigError, "too_many_workers"),
        ({}, "train", DataError, "no_edges"),
        ({}, "validation", DataError, "no_edges"),
        ({"model": {"aspects": True}}, None, DataError, "no_aspects"),
    ],
)
def test_pretrain_graph_refuses_before_workers_start(
    make_graph_config, town, tmp_path, monkeypatch, changes, empty, error, code
):
    source = dataset_in(town)
    rows = source.interactions
    kept = rows.filter(pc.not_equal(rows["split"], empty)) if empty else rows
    rewrite_dataset(tmp_path, source, {"interactions": kept})
    monkeypatch.setattr("xrec.train.graph.fit", None)
    with raises(error, code):
        pretrain_graph(make_graph_config(tmp_path / "graph", workspace=str(tmp_path), **changes))


def test_pretrain_graph_refuses_to_start_while_another_driver_trains(make_graph_config, tmp_path):
    checkpoints = open_location(str(tmp_path / "graph" / "checkpoints"))
    with only_driver(checkpoints, holder="another"), raises(LeaseError, "lease_held"):
        pretrain_graph(make_graph_config(tmp_path / "graph"))


def test_pretrain_graph_that_was_interrupted_at_the_very_end_only_writes_the_artifact(
    make_graph_config, tmp_path, monkeypatch
):
    monkeypatch.setattr("xrec.train.graph.fit", fit_here)
    config = make_graph_config(tmp_path / "graph", num_epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("xrec.train.graph.write_graph", Mock(side_effect=StorageError("full")))
        with pytest.raises(StorageError):
            pretrain_graph(config)
    ended = time.time()  # no epoch is trained again
    with raises(ArtifactMismatchError, "another_run", "training.num_epochs"):
        pretrain_graph(make_graph_config(tmp_path / "graph", num_epochs=3))
    pretrain_graph(config)
    assert all(row["time"] < ended for row in metrics_of(config.artifact("graph")))
    assert not (tmp_path / "graph" / "checkpoints").exists()


def test_no_held_out_pair_is_trained_on_and_drawn_users_are_ranked_as_among_all(town):
    dataset = dataset_in(town)
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(number, 4, generator=generator)
        for number in (dataset.num_users, dataset.num_items)
    )
    data = GraphData.of(dataset, with_aspects=False)
    rows = dataset.interactions.to_pylist()
    trained = [(row["user_index"], row["item_index"]) for row in rows if row["split"] == "train"]
    assert list(map(tuple, data.edges.T.tolist())) == sorted(trained)
    held_out = HeldOut.of(dataset, data, seed=3, most_users=11)
    assert len(held_out.users) == 11
    seen, wanted = (SeenItems(split_edges(dataset, split)) for split in ("train", "validation"))
    ranked = top_k_items(users, items, seen, held_out.users, K)
    expected, _ = ranking_metrics(ranked, wanted, dataset.num_items, (K,))
    sizes = dataset.num_users, dataset.num_items
    assert held_out.score(torch.cat([users, items]), Partition.whole(sum(sizes)), sizes) == expected
    everybody = HeldOut.of(dataset, data, seed=0)
    assert set(everybody.users.tolist()) == set(dataset.interaction_edges("validation")[0].tolist())


# What a worker holds


class LargestTensor(TorchDispatchMode):
    """Finds the bytes of the largest floating-point tensor that torch's operations make."""

    num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if (
                isinstance(each, Tensor)
                and each.layout == torch.strided
                and each.is_floating_point()
            ):
                self.num_bytes = max(self.num_bytes, each.untyped_storage().nbytes())
        return result

    def lap(self) -> int:
        """Return the bytes of the largest tensor since the last call."""
        largest, self.num_bytes = self.num_bytes, 0
        return largest


NUM_USERS, NUM_ITEMS, NUM_ASPECTS, DIM = 9000, 6000, 200, 16


def random_graph() -> tuple[GraphData, HeldOut]:
    """Return interactions and aspects of everybody, and a held-out item for 50 users."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int, size: int) -> Tensor:
        return torch.randint(most, (size,), generator=generator)

    pairs = torch.stack([draw(NUM_USERS, 15_000), draw(NUM_ITEMS, 15_000)])
    edges, nodes = distinct_edges(pairs, NUM_ITEMS), torch.arange(NUM_USERS + NUM_ITEMS)
    said = AspectEdges(nodes, draw(NUM_ASPECTS, len(nodes)), torch.ones(len(nodes)), NUM_ASPECTS)
    held_out = torch.stack([torch.arange(0, NUM_USERS, 180), draw(NUM_ITEMS, 50)])
    validation = HeldOut(SeenItems(edges), SeenItems(held_out), held_out[0])
    return GraphData(edges, NUM_USERS, NUM_ITEMS, said), validation


def largest_tensors(config: PretrainGraphConfig, rank: int) -> list[int]:
    """Return the bytes of the largest tensor of a worker's start, ranking, and first step."""
    (data, validation), num_workers = random_graph(), config.workers.num_processes
    with LargestTensor() as largest:
        device = torch.device("cpu")
        partition = build_partition(data, rank, num_workers, device)
        adjacency = data.adjacency(partition)
        start = start_embeddings(config, data, partition, device)
        at_start = largest.lap()
        model = LightGCN(start, data.num_users, config.model.num_layers, partition)
        with torch.no_grad():
            validation.score(model(adjacency), partition, (NUM_USERS, NUM_ITEMS))
        in_ranking = largest.lap()
        objective = build_objective(config.training.loss, data.edges, NUM_USERS, NUM_ITEMS)
        sizes = {"steps_per_epoch": 4, "micro_batch_size": 31}
        batch = next(epoch_batches(data.edges, objective.negatives, seed=0, epoch=1, **sizes))
        scored = Scored(batch, objective, NUM_USERS, (rank, num_workers))
        sum(batch_losses(model(adjacency), partition, [scored])).backward()
        return [at_start, in_ranking, largest.lap()]


def test_no_tensor_of_a_worker_of_four_is_larger_than_the_rows_that_it_reads(
    make_graph_config, tmp_path, monkeypatch
):
    """It reads a quarter, and a row v of others unless none of v's neighbors is in this quarter."""
    monkeypatch.setattr("xrec.graph.partition.NODES_PER_DRAW", 100)
    monkeypatch.setattr("xrec.graph.ranking.SCORES_PER_CHUNK", 5_000)
    monkeypatch.setattr("xrec.train.graph_model.NUM_NEGATIVES", 16)
    model = {"embedding_dim": DIM, "aspects": True}
    largest = {}
    for num_workers in (1, 4):
        config = make_graph_config(tmp_path, num_workers, model=model)
        found = in_threads(num_workers, functools.partial(largest_tensors, config))
        largest[num_workers] = [max(of_workers) for of_workers in zip(*found, strict=True)]
    assert min(largest[1]) >= (NUM_USERS + NUM_ITEMS + NUM_ASPECTS) * DIM * 4
    degrees = random_graph()[0].degrees()
    part_read = float(0.25 + 0.75 * (1 - 0.75**degrees).mean())
    assert part_read < 0.7
    for alone, share in zip(largest[1], largest[4], strict=True):
        assert share < alone * part_read * 1.2


# Any number of workers

BPR: dict[str, Any] = {
    "loss": "bpr",
    "l2_weight": 1e-2,
    "model": {"initialization": "random"},
}
WITH_ASPECTS: dict[str, Any] = {"model": {"aspects": True}}


@pytest.fixture(scope="module", params=[{}, BPR, WITH_ASPECTS], ids=["softmax", "bpr", "aspects"])
def of_one_worker(
    request, ray_cluster, town_with_aspects, make_graph_config, tmp_path_factory, drawn_seed
):
    """The settings of a training, and its graph of one worker."""
    shared = {"workspace": town_with_aspects, "seed": drawn_seed}
    settings = {**shared, **request.param}
    graph = str(tmp_path_factory.mktemp("one") / "graph")
    pretrain_graph(make_graph_config(graph, **settings))
    return settings, graph


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 3])
def test_graph_of_several_workers_is_that_of_one(of_one_worker, make_graph_config, s3, num_workers):
    settings, alone = of_one_worker
    graph = f"{s3.new_bucket()}/graph"
    config = make_graph_config(graph, num_workers, **settings)
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


# Killed on Ray


EPOCHS: dict[str, Any] = {"num_epochs": 12, "patience": 12}
KILLED_AT = "epoch 5: loss"


@pytest.fixture(scope="module")
def uninterrupted(ray_cluster, tmp_path_factory, make_graph_config):
    """The manifest and rows of twelve epochs by one worker."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "graph"
    return pretrain_graph(make_graph_config(folder, **EPOCHS)), metrics_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 1), None),  # the worker is replaced
        ((1, 0), 3),
        ((3, 0), 2),
    ],
)
def test_run_whose_worker_was_killed_resumes_from_the_checkpoint_on_any_number(
    uninterrupted, make_graph_config, tmp_path, before, after
):
    stopped: list[float] = []
    lost = pytest.raises(TrainingError) if after else nullcontext()
    noted = at_message(KILLED_AT, lambda: stopped.append(time.time()))
    with noted, worker_killed_at("graph", KILLED_AT), lost:
        manifest = pretrain_graph(make_graph_config(tmp_path, *before, **EPOCHS))
    if after:
        manifest = pretrain_graph(make_graph_config(tmp_path, after, **EPOCHS))
    expected, rows = uninterrupted
    assert_same_epochs(metrics_of(tmp_path), rows)
    assert all(row["time"] < stopped[0] for row in metrics_of(tmp_path)[:4])  # not trained again
    assert manifest.run == expected.run
    score = expected.metrics["test"]["ndcg@20"]
    assert manifest.metrics["test"]["ndcg@20"] == pytest.approx(score, abs=1e-3)

"""Graph pretraining with aspects: what comes out, the same on two workers, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.xrec.train.one_gpu_worker import OneWorker, become_worker
from xrec.config.graph import PretrainGraphConfig
from xrec.data import Dataset, read_dataset, write_dataset
from xrec.data.aspects import aspect_tables
from xrec.errors import DataError
from xrec.graph import AspectEdges, dataset_aspect_edges, read_graph
from xrec.schemas import REJECTED
from xrec.storage import open_location
from xrec.train.data import HeldOut, split_edges
from xrec.train.graph import graph_identity, pretrain_graph
from xrec.train.graph_loss import AspectLoss
from xrec.train.graph_worker import GraphWorker

ASPECTS = ["late hours", "garden", "pastries", "river view"]


@pytest.fixture(scope="module")
def town_with_aspects(town: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The town's dataset, in a workspace of its own, with two aspects of each training pair."""
    source = read_dataset(open_location(f"{town}/dataset"))
    users, items = source.users["user_id"], source.items["item_id"]
    rng = np.random.default_rng(0)
    pairs = source.interaction_edges("train").T.repeat(2, axis=0)
    chosen = (pairs[:, 1] + np.tile([0, 1], len(pairs) // 2) * rng.integers(1, 4, len(pairs))) % 4
    named = pa.table(
        {
            "user_id": users.take(pa.array(pairs[:, 0])),
            "item_id": items.take(pa.array(pairs[:, 1])),
            "aspect": [ASPECTS[aspect] for aspect in chosen],
            "opinion": ["good"] * len(pairs),
            "sentiment": ["positive"] * len(pairs),
            "split": ["train"] * len(pairs),
        }
    )
    workspace = tmp_path_factory.mktemp("town-with-aspects")
    write_town(workspace, source, aspect_tables(named, source.users, source.items))
    return str(workspace)


def write_town(workspace: Path, source: Dataset, aspects: Mapping[str, pa.Table]) -> None:
    """Write the dataset `source` with the tables `aspects` in the place of its own."""
    names = ("users", "items", "interactions", "explanations", "planted")
    write_dataset(
        open_location(str(workspace / "dataset")),
        {**{name: getattr(source, name) for name in names}, **aspects},
        REJECTED.empty_table(),
        config={"aspects": sorted(aspects)},
        inputs={},
        metrics={},
    )


def config(workspace: str, graph: Path, num_workers: int, **model: Any) -> PretrainGraphConfig:
    return PretrainGraphConfig.model_validate(
        {
            "workspace": workspace,
            "graph": str(graph),
            "model": {"embedding_dim": 8, "aspects": {}, **model},
            "training": {
                "num_epochs": 3,
                "steps_per_epoch": 4,
                "micro_batch_size": 31,
                "learning_rate": 0.05,
            },
            "parallelism": "replicated" if num_workers == 1 else "partitioned",
            "scaling": {"num_workers": num_workers, "device": "cpu", "max_failures": 0},
        }
    )


def test_graph_with_aspects_of_a_dataset_without_them_is_refused_before_workers_start(
    town: str, tmp_path: Path
) -> None:
    write_town(tmp_path, read_dataset(open_location(f"{town}/dataset")), {})
    with pytest.raises(DataError, match="the dataset has no aspects"):
        pretrain_graph(config(str(tmp_path), tmp_path / "graph", 1))


def test_settings_of_a_graph_without_aspects_are_those_of_before_there_were_any(
    town: str, tmp_path: Path
) -> None:
    settings, _ = graph_identity(config(town, tmp_path / "graph", 1, aspects=None))
    assert "aspects" not in settings["model"]


@pytest.mark.parametrize("parallelism", ["replicated", "partitioned"])
def test_worker_with_aspects_has_the_figures_of_a_cpu_on_a_gpu(
    town_with_aspects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallelism: str
) -> None:
    of = config(town_with_aspects, tmp_path, 1).model_copy(update={"parallelism": parallelism})
    world_size = 1 if parallelism == "replicated" else 2
    expected = train_here(become_worker(monkeypatch, tmp_path / "cpu", CPU, world_size), of)
    with FakeGPU(nccl=True):
        found = train_here(become_worker(monkeypatch, tmp_path / "gpu", GPU, world_size), of)
    assert found == expected
    if world_size == 1:  # here the second worker's rows stay as they are
        assert expected[-1] < expected[0]


def test_loss_grows_with_the_weight_of_the_aspects_loss_in_proportion(
    town_with_aspects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for weight in (0.0, 0.1, 0.2):
        of = config(town_with_aspects, tmp_path, 1, aspects={"loss_weight": weight})
        one_step = of.training.model_copy(update={"num_epochs": 1, "steps_per_epoch": 1})
        worker = become_worker(monkeypatch, tmp_path / str(weight), CPU)
        losses += train_here(worker, of.model_copy(update={"training": one_step}))
    without, once, twice = losses  # each is of the start, before the first step
    assert once - without > 0.01
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-3)


def train_here(worker: OneWorker, of: PretrainGraphConfig) -> list[float]:
    """Return the loss of each epoch of the first worker, in this process."""
    dataset = read_dataset(open_location(of.artifact("dataset")))
    training = GraphWorker(
        of,
        split_edges(dataset, "train"),
        dataset.num_users,
        dataset.num_items,
        "run",
        dataset_aspect_edges(dataset, of.model.aspects),
    )
    validation = HeldOut.of(dataset, "validation").part(0, worker.world_size)
    while not training.has_finished:
        training.run_epoch(validation)
    return [row["loss"] for row in worker.reports]


def test_users_who_mention_every_aspect_have_no_loss_and_the_others_do() -> None:
    of = PretrainGraphConfig.model_validate(
        {
            "workspace": "unused",
            "model": {"aspects": {}},
            "training": {"loss": {"kind": "bpr"}, "steps_per_epoch": 1},
        }
    )
    nodes, aspects = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 1])
    loss = AspectLoss(AspectEdges(nodes, aspects, torch.ones(4), 2), of, 2, 1)
    (batch,) = loss.batches(1, most=10)
    (micro_batch,) = batch.micro_batches
    assert sorted(micro_batch.users.tolist()) == [1, 2]  # user 0 mentions both
    assert (micro_batch.negatives != micro_batch.pos_items).all()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_with_aspects_give_the_vectors_of_one(
    town_with_aspects: str, tmp_path: Path
) -> None:
    graphs = []
    for num_workers in (1, 2):
        of = config(town_with_aspects, tmp_path / str(num_workers), num_workers)
        manifest = pretrain_graph(of)
        graphs.append(read_graph(open_location(of.artifact("graph"))))
        assert manifest.row_counts == {"users": 60, "items": 41, "aspects": 4}
    one, two = graphs
    assert one.aspects is not None
    assert two.aspects is not None
    one.check_finite()
    for name in ("users", "items", "aspects"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-2, atol=1e-3)

"""The files of a checkpoint: whose they are, what they count, and that they are read as written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from xrec.errors import ArtifactMismatchError
from xrec.graph.partition import Partition, RowBlocks
from xrec.storage import claim, open_location
from xrec.train.checkpoint import (
    ROWS,
    AdapterProgress,
    GraphProgress,
    Tensors,
    WholeState,
    adapter_files,
    progress_file,
    read_best_adapter,
    read_progress,
    read_rows,
    read_trained,
    rows_file,
)

CONFIG = {"training": {"seed": 0, "num_epochs": 2}}
INPUTS = {"dataset": "d1", "graph": "g1"}


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"training": {"seed": 7, "num_epochs": 2}}, INPUTS, r"training\.seed: 0 there, 7 here"),
        (CONFIG, {**INPUTS, "graph": "g2"}, r"inputs\.graph: 'g1' there, 'g2' here"),
    ],
)
def test_claim_by_another_run_is_refused_with_field_and_both_values(
    tmp_path, config, inputs, message
):
    folder = open_location(str(tmp_path / "checkpoints"))
    for _ in range(2):
        claim(folder, "adapter", CONFIG, INPUTS)
    with pytest.raises(ArtifactMismatchError, match=message):
        claim(folder, "adapter", config, inputs)


def adapter_progress(losses: list[float]) -> AdapterProgress:
    progress = AdapterProgress("r1", 4)
    for loss in losses:
        progress = progress.after_step(1.0, 2.0, 0.5).after_epoch({"validation_loss": loss})
    return progress


def graph_progress(scores: list[float]) -> GraphProgress:
    progress = GraphProgress("r1", num_parts=2)
    for epoch, score in enumerate(scores, start=1):
        progress = progress.after_epoch({"epoch": epoch}, step=epoch).after_evaluation(score)
    return progress


@pytest.mark.parametrize(
    "progress", [adapter_progress([0.1 + 0.2]).after_step(1 / 3, 7.0, 0.1), graph_progress([0.5])]
)
def test_progress_is_read_back_equal_and_of_another_run_refused(progress):
    files = progress_file(progress)
    assert read_progress(type(progress), files.__getitem__, "r1") == progress
    with pytest.raises(ArtifactMismatchError, match="of run r1, this is run r2"):
        read_progress(type(progress), files.__getitem__, "r2")
    with pytest.raises(ArtifactMismatchError, match=r"of run \(not named\), this is run r2"):
        read_progress(type(progress), lambda name: b"{}", "r2")


@pytest.mark.parametrize(
    ("losses", "best", "without_gain"),
    [
        ([3.0], 3.0, 0),
        ([3.0, 2.0, 2.0], 2.0, 1),
        ([3.0, 2.0, 4.0, 1.0], 1.0, 0),
        ([1.0, 2.0, 3.0], 1.0, 2),
    ],
)
def test_progress_of_an_adapter_knows_the_best_epoch_and_how_long_ago_it_was(
    losses, best, without_gain
):
    progress, num = adapter_progress(losses), len(losses)
    assert progress.best["validation_loss"] == best
    assert progress.evaluations_without_gain == without_gain
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (num + 1, num, 0)


def test_progress_of_an_epoch_is_the_mean_over_its_tokens_only():
    assert AdapterProgress("r1", 4).evaluations_without_gain == 0
    progress = adapter_progress([3.0]).after_step(10.0, 4.0, 1.0).after_step(20.0, 6.0, 2.0)
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (2, 3, 2)
    assert (progress.train_loss, progress.epoch_seconds) == (3.0, 3.0)


def test_progress_of_a_graph_counts_evaluations_without_gain_and_remembers_the_best():
    progress = graph_progress([0.2, 0.4, 0.4, 0.3])
    assert (progress.best_epoch, progress.best_score) == (2, 0.4)
    assert (progress.evaluations_without_gain, len(progress.history)) == (2, 4)


@pytest.mark.parametrize("best", [{}, {"user.weight": torch.tensor([5.0])}])
def test_adapter_files_read_back_are_equal(best):
    trained = {
        name: WholeState(*(torch.rand(*shape) / 3 for _ in range(3)))
        for name, shape in {"a.weight": (2, 3), "b": (4,)}.items()
    }
    files = adapter_files(trained, best)
    found = read_trained(files.__getitem__)
    assert found.keys() == trained.keys()
    for name, state in trained.items():
        torch.testing.assert_close(vars(found[name]), vars(state), rtol=0, atol=0)
    torch.testing.assert_close(read_best_adapter(files.__getitem__), best, rtol=0, atol=0)


N, D = 7, 3
TABLES = {
    name: torch.randn(N, D, generator=torch.Generator().manual_seed(number))
    for number, name in enumerate(ROWS)
}


def partitions(num_blocks: int) -> list[Partition]:
    """Deal 7 nodes out to 2 blocks of 4 rows or 3 blocks of 3, so that some rows are empty."""
    blocks = RowBlocks.deal(torch.tensor([5, 1, 4, 4, 2, 9, 3]), num_blocks)
    return [Partition(blocks, rank) for rank in range(num_blocks)]


def own_rows(partition: Partition, table: torch.Tensor) -> torch.Tensor:
    """Return the rows that the worker owns, zeros in empty rows, whose node is -1."""
    return torch.cat([table, torch.zeros(1, D)])[partition.node_ids]


def save(folder: Path, num_parts: int) -> Callable[[str], Tensors]:
    for partition in partitions(num_parts):
        rows = {name: own_rows(partition, table) for name, table in TABLES.items()}
        for name, data in rows_file(partition.rank, partition.node_ids, rows).items():
            (folder / name).write_bytes(data)
    return lambda name: safetensors.torch.load_file(folder / name)


@pytest.mark.parametrize(("written", "read"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
def test_rows_written_in_some_parts_are_read_in_other_parts(tmp_path, written, read):
    load = save(tmp_path, written)
    for partition in partitions(read):
        rows = read_rows(load, written, partition.node_ids)
        for name, table in TABLES.items():
            assert torch.equal(rows[name], own_rows(partition, table))


def test_best_vectors_come_in_the_order_of_the_nodes_and_a_lack_of_rows_is_refused(tmp_path):
    load = save(tmp_path, 3)
    rows = read_rows(load, 3, torch.arange(N), ("best",))
    assert rows.keys() == {"best"}
    assert torch.equal(rows["best"], TABLES["best"])
    with pytest.raises(ArtifactMismatchError, match="lacks the rows of 3 of 10 nodes"):
        read_rows(load, 3, torch.arange(N + 3))

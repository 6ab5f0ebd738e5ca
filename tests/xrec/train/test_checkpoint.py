"""A training's files: checkpoints, which only their own run reads, and the lease of its driver."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.errors import raises
from tests.world.program import wait_until
from xrec.errors import ArtifactMismatchError, StorageError
from xrec.graph.partition import Partition, RowBlocks
from xrec.storage import LocalLocation, only_driver, open_location
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


def adapter_progress(losses: list[float]) -> AdapterProgress:
    progress = AdapterProgress("r1")
    for loss in losses:
        progress = progress.after_step(1.0, 2.0, 0.5).after_epoch({"validation_loss": loss})
    return progress


def graph_progress(scores: list[float]) -> GraphProgress:
    progress = GraphProgress("r1", num_parts=2)
    for epoch, score in enumerate(scores, start=1):
        progress = progress.after_epoch({"epoch": epoch}, 1).after_evaluation(epoch, -score)
    return progress


@pytest.mark.parametrize(
    "progress", [adapter_progress([0.1 + 0.2]).after_step(1 / 3, 7.0, 0.1), graph_progress([0.5])]
)
def test_progress_is_read_back_equal_and_refused_by_another_run(progress):
    files = progress_file(progress)
    assert read_progress(type(progress), files.__getitem__, "r1") == progress
    for read, run in ((files.__getitem__, "r1"), (lambda name: b"{}", None)):
        with raises(ArtifactMismatchError, "checkpoint_of_another_run", saw=run):
            read_progress(type(progress), read, "r2")


@pytest.mark.parametrize(
    ("losses", "best", "without_gain"),
    [([3.0], 3.0, 0), ([3.0, 2.0, 2.0], 2.0, 1), ([3.0, 2.0, 4.0, 1.0], 1.0, 0)],
)
def test_progress_knows_the_best_epoch_and_how_long_ago_it_was(losses, best, without_gain):
    progress, num = adapter_progress(losses), len(losses)
    of_graph = graph_progress([1 / loss for loss in losses])
    assert progress.best_epoch == of_graph.best_epoch == losses.index(best) + 1
    assert progress.evaluations_without_gain == of_graph.evaluations_without_gain == without_gain
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (num + 1, num, 0)
    assert (len(progress.history), len(of_graph.history)) == (num, num)
    # The next epoch's loss is the mean over its own tokens.
    progress = progress.after_step(10.0, 4.0, 1.0).after_step(20.0, 6.0, 2.0)
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (num + 1, num + 2, 2)
    assert (progress.train_loss, progress.epoch_seconds) == (3.0, 3.0)


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
    """Deal 7 nodes to 2 blocks of 4 rows or 3 blocks of 3, so that some rows are empty."""
    blocks = RowBlocks.deal(torch.tensor([5, 1, 4, 4, 2, 9, 3]), num_blocks)
    return [Partition(blocks, rank) for rank in range(num_blocks)]


def own_rows(partition: Partition, table: torch.Tensor) -> torch.Tensor:
    """Return the rows that the worker owns; empty rows, whose node is -1, are zeros."""
    return torch.cat([table, torch.zeros(1, D)])[partition.node_ids]


def save(folder: Path, num_parts: int) -> Callable[[str], Tensors]:
    for partition in partitions(num_parts):
        rows = {name: own_rows(partition, table) for name, table in TABLES.items()}
        for name, data in rows_file(partition.rank, partition.node_ids, rows).items():
            (folder / name).write_bytes(data)
    return lambda name: safetensors.torch.load_file(folder / name)


@pytest.mark.parametrize(("written", "read"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
def test_rows_written_by_some_workers_are_read_by_any_number(tmp_path, written, read):
    load = save(tmp_path, written)
    for partition in partitions(read):
        rows = read_rows(load, written, partition.node_ids)
        for name, table in TABLES.items():
            assert torch.equal(rows[name], own_rows(partition, table))


def test_best_vectors_come_in_node_order_and_missing_rows_are_refused(tmp_path):
    load = save(tmp_path, 3)
    rows = read_rows(load, 3, torch.arange(N), ("best",))
    assert rows.keys() == {"best"}
    assert torch.equal(rows["best"], TABLES["best"])
    with raises(ArtifactMismatchError, "checkpoint_lacks_rows", saw=3):
        read_rows(load, 3, torch.arange(N + 3))


# The lease


def record_of(folder: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads((folder / "driver.json").read_text())
    return record


def test_training_survives_a_store_that_fails_for_a_while(tmp_path, monkeypatch):
    checkpoints, failures = open_location(str(tmp_path)), list[bytes]()
    write = LocalLocation.write_bytes

    def fail(location: LocalLocation, data: bytes) -> None:
        failures.append(data)
        raise StorageError("no answer")

    with only_driver(checkpoints, term=timedelta(seconds=0.4)):
        monkeypatch.setattr(LocalLocation, "write_bytes", fail)
        wait_until(lambda: len(failures) > 1)
        monkeypatch.setattr(LocalLocation, "write_bytes", write)
        first = record_of(tmp_path)["expires_at"]
        wait_until(lambda: record_of(tmp_path)["expires_at"] > first)

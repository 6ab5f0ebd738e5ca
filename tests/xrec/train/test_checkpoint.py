"""The files of a checkpoint: whose they are, what they count, and that they are read as written."""

import json
from pathlib import Path

import pytest
import torch

from xrec.errors import ArtifactMismatchError
from xrec.graph import Partition, RowBlocks
from xrec.storage import open_location
from xrec.train.checkpoint import (
    AdapterProgress,
    GraphProgress,
    GraphRows,
    ReadFile,
    TrainedTensors,
    adapter_files,
    claim,
    progress_file,
    read_best_adapter,
    read_best_vectors,
    read_progress,
    read_rows,
    read_trained,
    rows_file,
)

CONFIG = {"training": {"seed": 0, "num_epochs": 2}}
INPUTS = {"dataset": "d1", "graph": "g1"}


def test_claim_is_new_once_and_then_this_runs(tmp_path: Path) -> None:
    folder = open_location(str(tmp_path / "checkpoints"))
    assert not claim(folder, "adapter", CONFIG, INPUTS)
    assert claim(folder, "adapter", CONFIG, INPUTS)


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"training": {"seed": 7, "num_epochs": 2}}, INPUTS, r"training\.seed: 0 there, 7 here"),
        (CONFIG, {**INPUTS, "graph": "g2"}, r"inputs\.graph: 'g1' there, 'g2' here"),
    ],
)
def test_claim_by_another_run_is_refused_with_field_and_both_values(
    tmp_path: Path, config: dict[str, object], inputs: dict[str, str], message: str
) -> None:
    folder = open_location(str(tmp_path / "checkpoints"))
    claim(folder, "adapter", CONFIG, INPUTS)
    with pytest.raises(ArtifactMismatchError, match=message):
        claim(folder, "adapter", config, inputs)


@pytest.mark.parametrize("kind", [AdapterProgress, GraphProgress])
def test_progress_of_another_run_is_refused(kind: type[AdapterProgress | GraphProgress]) -> None:
    data = json.dumps({"run": "r1", "step": 3, "history": []}).encode()
    assert read_progress(kind, lambda name: data, "r1") == kind("r1", step=3)
    with pytest.raises(ArtifactMismatchError, match="of run r1, this is run r2"):
        read_progress(kind, lambda name: data, "r2")
    with pytest.raises(ArtifactMismatchError, match=r"of run \(not named\), this is run r2"):
        read_progress(kind, lambda name: b"{}", "r2")


def progress_after(losses: list[float]) -> AdapterProgress:
    progress = AdapterProgress("r1")
    for loss in losses:
        progress = progress.after_step(1.0, 2.0, 0.5).after_epoch({"validation_loss": loss})
    return progress


@pytest.mark.parametrize(
    ("losses", "best", "without_gain"),
    [
        ([3.0], 3.0, 0),
        ([3.0, 2.0, 2.0], 2.0, 1),
        ([3.0, 2.0, 4.0, 1.0], 1.0, 0),
        ([1.0, 2.0, 3.0], 1.0, 2),
    ],
)
def test_progress_knows_the_best_epoch_and_how_long_ago_it_was(
    losses: list[float], best: float, without_gain: int
) -> None:
    progress = progress_after(losses)
    assert progress.best["validation_loss"] == best
    assert progress.evaluations_without_gain == without_gain
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (
        len(losses) + 1,
        len(losses),
        0,
    )


def test_progress_of_an_epoch_is_the_mean_over_its_tokens_only() -> None:
    progress = progress_after([3.0]).after_step(10.0, 4.0, 1.0).after_step(20.0, 6.0, 2.0)
    assert progress.train_loss == 3.0
    assert (progress.epoch, progress.step, progress.step_in_epoch, progress.epoch_seconds) == (
        2,
        3,
        2,
        3.0,
    )


def test_progress_before_the_first_epoch_has_no_evaluations_without_gain() -> None:
    assert AdapterProgress("r1").evaluations_without_gain == 0


@pytest.mark.parametrize("best", [{}, {"user.weight": torch.tensor([5.0])}])
def test_checkpoint_files_read_back_are_equal(best: dict[str, torch.Tensor]) -> None:
    progress = progress_after([0.1 + 0.2]).after_step(1 / 3, 7.0, 0.1)
    trained = TrainedTensors(
        *({"a.weight": torch.rand(2, 3) / 3, "b": torch.rand(4)} for _ in range(3))
    )
    files = {**progress_file(progress), **adapter_files(trained, best)}
    assert sorted(files) == ["adapter.safetensors", "progress.json", "state.safetensors"]
    assert read_progress(AdapterProgress, files.__getitem__, "r1") == progress
    torch.testing.assert_close(vars(read_trained(files.__getitem__)), vars(trained), rtol=0, atol=0)
    torch.testing.assert_close(read_best_adapter(files.__getitem__), best, rtol=0, atol=0)


N, D = 7, 3
TABLES = {
    name: torch.randn(N, D, generator=torch.Generator().manual_seed(number))
    for number, name in enumerate(GraphRows.__dataclass_fields__)
}


def partitions(num_blocks: int) -> list[Partition]:
    """Deal 7 nodes out to 2 blocks of 4 rows or 3 blocks of 3, so that some rows are empty."""
    blocks = RowBlocks.deal(torch.tensor([5, 1, 4, 4, 2, 9, 3]), num_blocks)
    return [Partition(blocks, rank) for rank in range(num_blocks)]


def save(folder: Path, num_parts: int) -> ReadFile:
    for partition in partitions(num_parts):
        rows = GraphRows(**{name: partition.own_rows(table) for name, table in TABLES.items()})
        for name, data in rows_file(partition.rank, partition.node_ids, rows).items():
            (folder / name).write_bytes(data)
    return lambda name: (folder / name).read_bytes()


@pytest.mark.parametrize(("written", "read"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
def test_rows_written_in_some_parts_are_read_in_other_parts(
    tmp_path: Path, written: int, read: int
) -> None:
    read_file = save(tmp_path, written)
    for partition in partitions(read):
        rows = read_rows(read_file, written, partition.node_ids)
        for name, table in TABLES.items():
            expected = [
                table[node].tolist() if node >= 0 else [0.0] * D
                for node in partition.node_ids.tolist()
            ]
            assert getattr(rows, name).tolist() == expected


def test_best_vectors_come_in_the_order_of_the_nodes(tmp_path: Path) -> None:
    assert torch.equal(read_best_vectors(save(tmp_path, 3), 3, N), TABLES["best"])


def test_rows_of_fewer_nodes_than_asked_for_are_refused(tmp_path: Path) -> None:
    read_file = save(tmp_path, 2)
    with pytest.raises(ArtifactMismatchError, match="lacks the rows of 3 of 10 nodes"):
        read_rows(read_file, 2, torch.arange(N + 3))


def test_progress_is_read_back_equal_and_of_another_run_refused() -> None:
    row = {"epoch": 2, "loss": 0.1 + 0.2, "ndcg@20": 0.5}
    progress = GraphProgress("run-a", num_parts=2).after_epoch(row, step=9).after_evaluation(0.5)
    files = progress_file(progress)
    assert read_progress(GraphProgress, files.__getitem__, "run-a") == progress
    with pytest.raises(ArtifactMismatchError, match="of run run-a, this is run run-b"):
        read_progress(GraphProgress, files.__getitem__, "run-b")


def test_progress_counts_evaluations_without_gain_and_remembers_the_best() -> None:
    progress = GraphProgress("run")
    for epoch, score in enumerate([0.2, 0.4, 0.4, 0.3], start=1):
        progress = progress.after_epoch({"epoch": epoch}, step=epoch).after_evaluation(score)
    assert (progress.best_epoch, progress.best_score, progress.evaluations_without_gain) == (
        2,
        0.4,
        2,
    )
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]

"""The state between two epochs: written in parts by nodes, read as any other parts; of another run, or with rows missing, refused."""

from pathlib import Path

import pytest
import torch

from xrec.errors import ArtifactMismatchError
from xrec.graph import Partition, RowBlocks
from xrec.train.graph_checkpoint import (
    Progress,
    ReadFile,
    Rows,
    progress_file,
    read_best,
    read_progress,
    read_rows,
    rows_file,
)

N, D = 7, 3
TABLES = {
    name: torch.randn(N, D, generator=torch.Generator().manual_seed(number))
    for number, name in enumerate(Rows.__dataclass_fields__)
}


def partitions(num_blocks: int) -> list[Partition]:
    """Of 7 nodes: 2 blocks of 4 rows or 3 of 3, so with empty rows."""
    blocks = RowBlocks.deal(torch.tensor([5, 1, 4, 4, 2, 9, 3]), num_blocks)
    return [Partition(blocks, rank) for rank in range(num_blocks)]


def save(folder: Path, num_parts: int) -> ReadFile:
    for partition in partitions(num_parts):
        rows = Rows(**{name: partition.own_rows(table) for name, table in TABLES.items()})
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
    assert torch.equal(read_best(save(tmp_path, 3), 3, N), TABLES["best"])


def test_rows_of_fewer_nodes_than_asked_for_are_refused(tmp_path: Path) -> None:
    read_file = save(tmp_path, 2)
    with pytest.raises(ArtifactMismatchError, match="lacks the rows of 3 of 10 nodes"):
        read_rows(read_file, 2, torch.arange(N + 3))


def test_progress_is_read_back_equal_and_of_another_run_refused() -> None:
    row = {"epoch": 2, "loss": 0.1 + 0.2, "ndcg@20": 0.5}
    progress = Progress("run-a", num_parts=2).after_epoch(row, step=9).after_evaluation(0.5)
    files = progress_file(progress)
    assert read_progress(files.__getitem__, "run-a") == progress
    with pytest.raises(ArtifactMismatchError, match="of run run-a, this is run run-b"):
        read_progress(files.__getitem__, "run-b")


def test_progress_counts_evaluations_without_gain_and_remembers_the_best() -> None:
    progress = Progress("run")
    for epoch, score in enumerate([0.2, 0.4, 0.4, 0.3], start=1):
        progress = progress.after_epoch({"epoch": epoch}, step=epoch).after_evaluation(score)
    assert (progress.best_epoch, progress.best_score, progress.evaluations_without_gain) == (
        2,
        0.4,
        2,
    )
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]

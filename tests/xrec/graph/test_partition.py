"""Row blocks: every node stands once and edges are balanced.

A training by row blocks in three real processes gives the same as one in a single process.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xrec.graph import Partition, RowBlocks, normalized_adjacency

WORLD_SIZE = 3  # 41 nodes: the blocks need empty rows


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 7])
def test_row_blocks_hold_each_node_once_in_order_with_empty_rows_last(num_blocks: int) -> None:
    degrees = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(1))
    blocks = RowBlocks.deal(degrees, num_blocks)
    assert len(blocks.nodes) == num_blocks * blocks.block_size == num_blocks * -(-30 // num_blocks)
    assert torch.equal(blocks.nodes[blocks.rows], torch.arange(30))
    assert int((blocks.nodes == -1).sum()) == len(blocks.nodes) - 30
    for rank in range(num_blocks):
        ids = blocks.node_ids(rank).tolist()
        real = [node for node in ids if node >= 0]
        assert ids == sorted(real) + [-1] * (len(ids) - len(real))


def test_row_blocks_power_law_degrees_are_balanced() -> None:
    degrees = (10_000 / torch.arange(1, 4001)).long()
    blocks = RowBlocks.deal(degrees, 4)
    loads = [int(degrees[blocks.node_ids(rank)].sum()) for rank in range(4)]
    # The node of the highest degree alone has 10,000 of the 86,000 edges.
    assert max(loads) - min(loads) < 10_000
    assert max(loads[1:]) - min(loads[1:]) < 0.1 * sum(loads) / 4


def test_row_blocks_more_blocks_than_nodes_raise_value_error() -> None:
    with pytest.raises(ValueError, match="3 nodes cannot be dealt to 4 blocks; expected 1 to 3"):
        RowBlocks.deal(torch.ones(3, dtype=torch.int64), 4)


def test_partition_rank_out_of_range_raises_value_error() -> None:
    with pytest.raises(ValueError, match="rank must be 0 to 1, saw 2"):
        Partition(RowBlocks.deal(torch.ones(4, dtype=torch.int64), 2), 2)


def test_adjacency_blocks_together_are_the_whole_matrix() -> None:
    edges = torch.tensor([[0, 0, 1, 0, 3], [1, 0, 1, 1, 2]])
    whole = normalized_adjacency(edges, 4, 5, exponent=0.3).to_dense()
    blocks = RowBlocks.deal(torch.tensor([2, 1, 0, 1, 1, 2, 1, 0, 0]), 2)  # 9 nodes: one empty row
    parts = torch.cat(
        [
            normalized_adjacency(edges, 4, 5, Partition(blocks, rank), exponent=0.3).to_dense()
            for rank in range(2)
        ]
    )
    assert parts.shape == (10, 10)
    torch.testing.assert_close(parts[blocks.rows][:, blocks.rows], whole)
    empty = blocks.nodes == -1
    assert not parts[empty].any()
    assert not parts[:, empty].any()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, torch.Tensor]]:
    """Return the outcomes of one process and of three processes, by the number of processes."""
    folder = tmp_path_factory.mktemp("blocks")
    script = str(Path(__file__).with_name("train_by_blocks.py"))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(WORLD_SIZE), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        alone = runpy.run_path(script)
        one = alone["train"](Partition.whole(alone["NUM_USERS"] + alone["NUM_ITEMS"]))
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
    return {1: one, WORLD_SIZE: torch.load(folder / "outcome.pt")}


def test_random_start_is_equal_for_one_and_three_workers(
    outcomes: dict[int, dict[str, torch.Tensor]],
) -> None:
    assert torch.equal(outcomes[1]["random"], outcomes[WORLD_SIZE]["random"])
    assert 0.08 < float(outcomes[1]["random"].std()) < 0.12


def test_spectral_start_is_equal_for_one_and_three_workers(
    outcomes: dict[int, dict[str, torch.Tensor]],
) -> None:
    torch.testing.assert_close(
        outcomes[1]["spectral"], outcomes[WORLD_SIZE]["spectral"], rtol=1e-4, atol=1e-5
    )


def test_training_by_blocks_has_the_losses_and_embeddings_of_one_worker(
    outcomes: dict[int, dict[str, torch.Tensor]],
) -> None:
    one, three = outcomes[1], outcomes[WORLD_SIZE]
    assert one["losses"][-1] < one["losses"][0]
    torch.testing.assert_close(three["losses"], one["losses"], rtol=1e-4, atol=0)
    torch.testing.assert_close(three["end"], one["end"], rtol=1e-3, atol=1e-4)
    assert (one["end"] - one["spectral"]).abs().max() > 1e-2

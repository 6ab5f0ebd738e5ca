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

from xrec.graph.partition import Partition, RowBlocks

WORLD_SIZE = 3  # 41 nodes: the blocks need empty rows


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 7])
def test_row_blocks_hold_each_node_once_in_order_with_empty_rows_last(num_blocks):
    degrees = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(1))
    blocks = RowBlocks.deal(degrees, num_blocks)
    assert len(blocks.nodes) == num_blocks * blocks.block_size == num_blocks * -(-30 // num_blocks)
    assert torch.equal(blocks.nodes[blocks.rows], torch.arange(30))
    assert int((blocks.nodes == -1).sum()) == len(blocks.nodes) - 30
    for rank in range(num_blocks):
        ids = blocks.node_ids(rank).tolist()
        real = [node for node in ids if node >= 0]
        assert ids == sorted(real) + [-1] * (len(ids) - len(real))


def test_row_blocks_power_law_degrees_are_balanced():
    degrees = (10_000 / torch.arange(1, 4001)).long()
    blocks = RowBlocks.deal(degrees, 4)
    loads = [int(degrees[blocks.node_ids(rank)].sum()) for rank in range(4)]
    # The node of the highest degree alone has 10,000 of the 86,000 edges.
    assert max(loads) - min(loads) < 10_000
    assert max(loads[1:]) - min(loads[1:]) < 0.1 * sum(loads) / 4


def test_row_blocks_more_blocks_than_nodes_raise_value_error():
    with pytest.raises(ValueError, match="3 nodes cannot be dealt to 4 blocks; expected 1 to 3"):
        RowBlocks.deal(torch.ones(3, dtype=torch.int64), 4)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
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


def test_training_by_blocks_has_the_starts_losses_and_embeddings_of_one_worker(outcomes):
    one, three = outcomes[1], outcomes[WORLD_SIZE]
    assert torch.equal(one["random"], three["random"])
    assert 0.08 < float(one["random"].std()) < 0.12
    torch.testing.assert_close(one["spectral"], three["spectral"], rtol=1e-4, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    torch.testing.assert_close(three["losses"], one["losses"], rtol=1e-4, atol=0)
    torch.testing.assert_close(three["end"], one["end"], rtol=1e-3, atol=1e-4)
    assert (one["end"] - one["spectral"]).abs().max() > 1e-2

"""Row blocks: every node stands once and edges are balanced.

A training by row blocks in two real processes gives the same as one in a single process.
"""

import pytest
import torch
from torch.multiprocessing import spawn

from tests.xrec.graph.train_by_blocks import NUM_ITEMS, NUM_USERS, train, work
from xrec.graph.partition import Partition, RowBlocks

WORLD_SIZE = 2  # 41 nodes: the blocks need an empty row


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


def test_training_by_blocks_has_the_starts_losses_and_embeddings_of_one_worker(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    workers = spawn(work, (WORLD_SIZE, tmp_path), nprocs=WORLD_SIZE, join=False)
    one = train(Partition.whole(NUM_USERS + NUM_ITEMS))
    while not workers.join():
        pass
    several = torch.load(tmp_path / "outcome.pt")
    assert torch.equal(one["random"], several["random"])
    assert 0.08 < float(one["random"].std()) < 0.12
    torch.testing.assert_close(one["spectral"], several["spectral"], rtol=1e-4, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    torch.testing.assert_close(several["losses"], one["losses"], rtol=1e-4, atol=0)
    torch.testing.assert_close(several["end"], one["end"], rtol=1e-3, atol=1e-4)
    assert (one["end"] - one["spectral"]).abs().max() > 1e-2

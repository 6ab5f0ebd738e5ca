"""What a token adds equals loops over heads; the buffer holds it."""

import pytest
import torch
from torch import Tensor

from xrec.errors import ModelError
from xrec.generate.vllm.injection import InjectionBuffer, Projection

NUM_HEADS, HEAD_DIM, H = 8, 3, 24


def projection(num_key_value_heads: int, rank: int = 0, world_size: int = 1) -> Projection:
    return Projection(H, NUM_HEADS, num_key_value_heads, HEAD_DIM, rank, world_size)


def head(vectors: Tensor, index: int) -> Tensor:
    return vectors[:, index * HEAD_DIM : (index + 1) * HEAD_DIM]


def folded_head(vectors: Tensor, index: int, num_key_value_heads: int) -> Tensor:
    group = NUM_HEADS // num_key_value_heads
    return sum(head(vectors, query) for query in range(index * group, (index + 1) * group)) / group


@pytest.mark.parametrize(
    ("num_key_value_heads", "world_size", "heads_of_ranks"),
    [
        (8, 1, [range(8)]),
        (2, 1, [range(2)]),
        (4, 2, [(0, 1), (2, 3)]),
        (2, 2, [(0,), (1,)]),
        (2, 8, [(0,), (0,), (0,), (0,), (1,), (1,), (1,), (1,)]),
        (1, 4, [(0,), (0,), (0,), (0,)]),
    ],
)
def test_added_direct_is_each_ranks_slice_of_q_and_folded_k_and_v(
    num_key_value_heads: int, world_size: int, heads_of_ranks: list[list[int]]
) -> None:
    adapted = torch.randn(5, H, generator=torch.Generator().manual_seed(0))
    num_queries = NUM_HEADS // world_size
    for rank, key_heads in enumerate(heads_of_ranks):
        part = projection(num_key_value_heads, rank, world_size)
        keys = [folded_head(adapted, index, num_key_value_heads) for index in key_heads]
        expected = torch.cat(
            [head(adapted, rank * num_queries + index) for index in range(num_queries)]
            + keys
            + keys,
            dim=1,
        )
        torch.testing.assert_close(part.added(adapted, "direct"), expected)
        assert part.width("direct") == expected.shape[1]


def test_added_projected_is_the_vector_and_none_is_nothing() -> None:
    adapted = torch.randn(5, H)
    part = projection(2, rank=1, world_size=2)
    assert torch.equal(part.added(adapted, "projected"), adapted)
    assert part.width("projected") == H
    assert part.added(adapted, "none").shape == (5, 0)
    assert part.width("none") == 0


def test_added_direct_with_a_query_wider_than_the_hidden_state_raises_model_error() -> None:
    wide = Projection(hidden_size=16, num_heads=8, num_key_value_heads=2, head_dim=4)
    with pytest.raises(ModelError, match="direct: q is 32 wide, h 16"):
        wide.added(torch.zeros(1, 16), "direct")


def test_buffer_holds_the_latest_step_and_zeros_at_one_address() -> None:
    buffer = InjectionBuffer(6, 2)
    address = buffer.values.data_ptr()
    long, short = torch.ones(5, 2), torch.full((2, 2), 3.0)
    for rows in (long, None, long, short, None, None, long):
        buffer.write(rows)
        expected = torch.zeros(6, 2)
        if rows is not None:
            expected[: len(rows)] = rows
        assert torch.equal(buffer.values, expected)
    assert buffer.values.data_ptr() == address
    assert not buffer.state_dict()  # nothing that a checkpoint must hold

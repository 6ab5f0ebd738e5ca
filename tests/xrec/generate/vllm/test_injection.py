"""What a token adds equals loops over heads; the buffer holds it, and the hooks add it."""

import pytest
import torch
from torch import Tensor, nn

from xrec.config.adapter import Injection
from xrec.errors import ModelError
from xrec.generate.vllm.injection import InjectionBuffer, Projection, install_hooks

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
    buffer = InjectionBuffer(projection(8), "projected", 6)
    address = buffer.values.data_ptr()
    long, short = torch.ones(5, H), torch.full((2, H), 3.0)
    for vectors in (long, None, long, short, None, None, long):
        if vectors is None:
            buffer.clear()
        else:
            buffer.write(vectors)
        expected = torch.zeros(6, H)
        if vectors is not None:
            expected[: len(vectors)] = vectors
        assert torch.equal(buffer.values, expected)
    assert buffer.values.data_ptr() == address
    assert not buffer.state_dict()  # nothing that a checkpoint must hold


def test_buffer_written_at_rows_forgets_the_step_before() -> None:
    buffer = InjectionBuffer(projection(8), "projected", 6)
    vectors = torch.randn(2, H)
    buffer.write(torch.ones(5, H))
    buffer.write_at(torch.tensor([3, 1]), vectors, 4)
    expected = torch.zeros(6, H)
    expected[[3, 1]] = vectors
    assert torch.equal(buffer.values, expected)
    buffer.write_at(torch.tensor([0]), vectors[:1], 1)
    assert torch.equal(buffer.values[0], vectors[0])
    assert not buffer.values[1:].any()


class FusedProjection(nn.Linear):
    """Returns its output and its bias apart, as vLLM's linear layers do."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return super().forward(hidden), None


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_hooks_add_the_first_rows_to_input_or_output(rule: Injection) -> None:
    torch.manual_seed(0)
    layers = [FusedProjection(H, 36) for _ in range(2)]
    hidden = torch.randn(4, H)
    plain = [layer(hidden)[0] for layer in layers]
    values = torch.randn(9, {"projected": H, "direct": 36, "none": 0}[rule])
    install_hooks(layers, values, rule)
    for layer, before in zip(layers, plain, strict=True):
        after, bias = layer(hidden)
        expected = before
        if rule == "projected":
            expected = before + values[:4] @ layer.weight.T
        elif rule == "direct":
            expected = before + values[:4]
        torch.testing.assert_close(after, expected)
        assert bias is None
        assert set(layer.state_dict()) == {"weight", "bias"}
    values.zero_()  # the layers read the buffer itself
    assert torch.allclose(layers[0](hidden)[0], plain[0])

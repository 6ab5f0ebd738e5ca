"""What a token adds equals loops over heads; the buffer holds it, and the layers add it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.fake_gpu import GPU, FakeGPU
from xrec.errors import ModelError
from xrec.generate.vllm.injection import InjectionBuffer, added

NUM_HEADS, HEAD_DIM, H = 8, 3, 24


def shape(num_key_value_heads: int, rank: int = 0, world_size: int = 1) -> dict[str, int]:
    """What a QKVParallelLinear of vLLM says of itself."""
    return {
        "hidden_size": H,
        "head_size": HEAD_DIM,
        "total_num_heads": NUM_HEADS,
        "total_num_kv_heads": num_key_value_heads,
        "num_kv_heads": max(1, num_key_value_heads // world_size),
        "num_kv_head_replicas": max(1, world_size // num_key_value_heads),
        "tp_rank": rank,
        "tp_size": world_size,
    }


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
def test_added_direct_is_each_ranks_slice_of_qkv(num_key_value_heads, world_size, heads_of_ranks):
    adapted = torch.randn(5, H, generator=torch.Generator().manual_seed(0))
    num_queries = NUM_HEADS // world_size
    for rank, key_heads in enumerate(heads_of_ranks):
        part = SimpleNamespace(**shape(num_key_value_heads, rank, world_size))
        keys = [folded_head(adapted, index, num_key_value_heads) for index in key_heads]
        expected = torch.cat(
            [head(adapted, rank * num_queries + index) for index in range(num_queries)]
            + keys
            + keys,
            dim=1,
        )
        torch.testing.assert_close(added(part, adapted, "direct"), expected)


def test_added_projected_is_the_vector_and_none_is_nothing():
    adapted = torch.randn(5, H)
    part = SimpleNamespace(**shape(2, rank=1, world_size=2))
    assert torch.equal(added(part, adapted, "projected"), adapted)
    assert added(part, adapted, "none").shape == (5, 0)


class FusedProjection(nn.Linear):
    """Returns its output and its bias apart, as vLLM's linear layers do."""

    def __init__(self) -> None:
        super().__init__(H, 36)
        vars(self).update(shape(2))

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return super().forward(hidden), None


def test_buffer_holds_the_latest_step_and_zeros_at_one_address():
    buffer = InjectionBuffer([FusedProjection()], "projected", 6)
    address = buffer.values.data_ptr()
    for rows in ([0, 1, 2, 3, 4], [3, 1], None, [5], None, None, [0]):
        expected = torch.zeros(6, H)
        if rows is None:
            buffer.clear()
        else:
            vectors = torch.randn(len(rows), H)
            buffer.write(torch.tensor(rows), vectors)
            expected[rows] = vectors
        assert torch.equal(buffer.values, expected)
    assert buffer.values.data_ptr() == address
    assert not buffer.state_dict()  # nothing that a checkpoint must hold


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_buffer_rows_are_added_to_input_or_output_of_each_layer(rule):
    torch.manual_seed(0)
    layers = [FusedProjection() for _ in range(2)]
    hidden, vectors = torch.randn(4, H), torch.randn(2, H)
    plain = [layer(hidden)[0] for layer in layers]
    buffer = InjectionBuffer(layers, rule, 9)
    buffer.write(torch.tensor([2, 0]), vectors)
    of_rows = torch.zeros(4, {"projected": H, "direct": 36, "none": 0}[rule])
    of_rows[[2, 0]] = added(layers[0], vectors, rule)
    for layer, before in zip(layers, plain, strict=True):
        after, bias = layer(hidden)
        change = of_rows @ layer.weight.T if rule == "projected" else of_rows
        torch.testing.assert_close(after, before + (change if rule != "none" else 0))
        assert bias is None
        assert set(layer.state_dict()) == {"weight", "bias"}
    buffer.clear()
    torch.testing.assert_close(layers[0](hidden)[0], plain[0])


@pytest.mark.parametrize("rule", ["projected", "direct"])
def test_buffer_on_a_gpu_takes_rows_and_vectors_that_are_there(rule):
    with FakeGPU():
        buffer = InjectionBuffer([FusedProjection().to(GPU)], rule, 6).to(GPU)
        for _ in range(2):
            buffer.write(torch.tensor([1, 4]).to(GPU), torch.ones(2, H, device=GPU))
        assert buffer.values.cpu().any(1).tolist() == [False, True, False, False, True, False]


def test_buffer_direct_of_a_model_with_a_wider_query_is_refused():
    layer = FusedProjection()
    layer.total_num_heads = 16
    with pytest.raises(ModelError, match="direct: q is 48 wide, h 24"):
        InjectionBuffer([layer], "direct", 6)

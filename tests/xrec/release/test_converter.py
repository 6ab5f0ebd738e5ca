"""The release's converter and our adapter have equal outputs; other files are refused."""

import pytest
import torch

from tests.xrec.release.public_release import State, converter_bytes, make_converter, public_forward
from xrec.adapter.moe import MoEAdapter
from xrec.errors import DataError
from xrec.release.converter import read_converter

K, D, H = 8, 64, 256


def load(state: State) -> MoEAdapter:
    adapter = MoEAdapter(D, H, K, dropout=0.2)
    adapter.load_state_dict(read_converter(converter_bytes(state), "user_converter.pkl"))
    return adapter.eval()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("vectors", [torch.float32, torch.float16])
def test_converter_gives_the_outputs_of_the_public_module(
    stored: torch.dtype, vectors: torch.dtype
) -> None:
    state = make_converter(K, D, H, seed=0, dtype=stored)
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1)).to(vectors)
    expected = public_forward({name: tensor.float() for name, tensor in state.items()}, x.float())
    output = load(state)(x)
    assert expected.abs().max() > 0.1
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    # The release casts the outputs to half before they enter the model; there they are equal up to
    # the last bit.
    torch.testing.assert_close(output.half(), expected.half(), rtol=2**-10, atol=1e-6)


def test_converter_noise_in_training_is_that_of_the_public_module() -> None:
    """The standard deviation of expert k's logit is softplus(x w_noise)_k + 0.01."""
    state = make_converter(K, D, H, seed=0)
    adapter = load(state)
    adapter.train()
    x = torch.randn(1, D, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    noise = adapter.router_logits(x.expand(20_000, D)) - x @ state["w_gate"]
    expected = torch.nn.functional.softplus(x @ state["w_noise"])[0] + 0.01
    torch.testing.assert_close(noise.std(dim=0), expected, rtol=0.05, atol=1e-4)


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "w_gate"), r"expected w_gate of shape \(D, K\), saw w_noise"),
        (lambda state: without(state, "experts.0.lin.weight"), r"experts\.0\.lin\.weight: missing"),
        (
            lambda state: without(state, "experts.2.bias"),
            r"experts\.2\.bias: missing, expected \(6,\)",
        ),
        (
            lambda state: {**state, "experts.3.bias": torch.zeros(6)},
            r"experts\.3\.bias: not expected",
        ),
        (
            lambda state: {**state, "w_noise": torch.zeros(6, 4)},
            r"w_noise: \(6, 4\), expected \(6, 3\)",
        ),
        (
            lambda state: {**state, "experts.1.lin.weight": torch.zeros(6, 9)},
            r"experts\.1\.lin\.weight: \(6, 9\), expected \(9, 6\)",
        ),
        (lambda state: {**state, "w_gate": torch.zeros(6)}, "expected w_gate of shape"),
        (lambda state: {**state, "w_gate": torch.zeros(6, 0)}, "expected w_gate of shape"),
        (lambda state: {}, "saw no tensor"),
        (lambda state: {**state, "w_gate": state["w_gate"].log()}, "w_gate: holds NaN"),
    ],
)
def test_converter_of_another_layout_raises_data_error(change: object, message: str) -> None:
    state = change(make_converter(3, 6, 9, seed=0))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"(?s)item_converter\.pkl.*{message}"):
        read_converter(converter_bytes(state), "item_converter.pkl")

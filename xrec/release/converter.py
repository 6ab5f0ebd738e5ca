"""A converter of the public XRec release (`user_converter.pkl`) as the tensors of our MoEAdapter.

Their module maps x in R^D to y = sum_k softmax(x w_gate)_k W_k (x - b_k). It neither standardizes
its input nor scales its output, so `mean` is 0, `std` and `scale` are 1, and the outputs are equal.
"""

import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.release.tensor_pickle import read_state_dict


def read_converter(data: bytes, name: str) -> dict[str, Tensor]:
    """The state of a MoEAdapter from the content of a converter's file.

    The keys are those of its `state_dict`. The file has experts.{k}.bias (D,),
    experts.{k}.lin.weight (H, D), w_gate (D, K) and w_noise (D, K). Raises DataError, with the
    file's `name`, if it has not.
    """
    state = read_state_dict(data, name)
    dim, num_experts = _gate_shape(state, name)
    hidden_size = len(state["experts.0.lin.weight"]) if "experts.0.lin.weight" in state else 0
    _check_shapes(state, _shapes(dim, num_experts, hidden_size), name)
    experts = range(num_experts)
    return {
        "weight": torch.stack(
            [state[f"experts.{k}.lin.weight"].T for k in experts]
        ).contiguous(),  # (K, D, H)
        "bias": torch.stack([state[f"experts.{k}.bias"] for k in experts]),
        "gate": state["w_gate"],
        "noise": state["w_noise"],
        "mean": torch.zeros(dim),
        "std": torch.ones(dim),
        "scale": torch.ones(()),
    }


def _gate_shape(state: dict[str, Tensor], name: str) -> tuple[int, int]:
    if "w_gate" not in state or state["w_gate"].ndim != 2 or 0 in state["w_gate"].shape:
        raise DataError(
            f"{name}: no converter of the XRec release: expected w_gate of shape (D, K), "
            f"saw {_shown(state)}"
        )
    dim, num_experts = state["w_gate"].shape
    return dim, num_experts


def _shapes(dim: int, num_experts: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a converter of K experts from R^D to R^H, by name."""
    gates: dict[str, tuple[int, ...]] = {
        "w_gate": (dim, num_experts),
        "w_noise": (dim, num_experts),
    }
    biases = {f"experts.{k}.bias": (dim,) for k in range(num_experts)}
    return {
        **gates,
        **biases,
        **{f"experts.{k}.lin.weight": (hidden_size, dim) for k in range(num_experts)},
    }


def _check_shapes(
    state: dict[str, Tensor], expected: dict[str, tuple[int, ...]], name: str
) -> None:
    seen = {key: tuple(tensor.shape) for key, tensor in state.items()}
    wrong = [
        f"{key}: {seen.get(key, 'missing')}, expected {shape}"
        for key, shape in expected.items()
        if seen.get(key) != shape
    ]
    wrong += [f"{key}: not expected" for key in seen if key not in expected]
    if wrong:
        raise DataError(
            f"{name}: no converter of the XRec release\n" + "\n".join(f"  {line}" for line in wrong)
        )


def _shown(state: dict[str, Tensor]) -> str:
    return (
        ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in list(state.items())[:6])
        or "no tensor"
    )

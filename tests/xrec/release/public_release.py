"""Files as in the public XRec release, and the equation of its converter, as oracles of tests."""

import io
import pickle
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def make_converter(
    num_experts: int, dim: int, hidden_size: int, *, seed: int, dtype: torch.dtype = torch.float32
) -> State:
    """The state dict of a converter of the release: random tensors, weights as small as theirs."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        "w_gate": torch.randn(dim, num_experts, generator=generator),
        "w_noise": torch.randn(dim, num_experts, generator=generator),
    }
    for k in range(num_experts):
        state[f"experts.{k}.bias"] = torch.randn(dim, generator=generator) * 0.1
        state[f"experts.{k}.lin.weight"] = torch.randn(hidden_size, dim, generator=generator) * 0.02
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def public_forward(state: State, vectors: Tensor) -> Tensor:
    """The outputs (N, H) of the release's converter for (N, D), sample by sample, by its equation.

    It is in eval mode: there is no dropout and no noise.
    """
    num_experts = state["w_gate"].shape[1]
    rows = []
    for x in vectors:
        gates = functional.softmax(x @ state["w_gate"], dim=-1)
        experts = [
            functional.linear(x - state[f"experts.{k}.bias"], state[f"experts.{k}.lin.weight"])
            for k in range(num_experts)
        ]
        rows.append(sum(gate * expert for gate, expert in zip(gates, experts, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


def converter_bytes(state: State) -> bytes:
    """As the release saves it: torch.save of the state dict."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def vector_files(users: Tensor, items: Tensor) -> dict[str, bytes]:
    """As the release saves them: pickles of two slices of one table that requires a gradient."""
    table = torch.cat([users, items]).requires_grad_() * 1
    return {
        "user_emb.pkl": pickle.dumps(table[: len(users)]),
        "item_emb.pkl": pickle.dumps(table[len(users) :]),
    }


def write_release(folder: Path, users: Tensor, items: Tensor, converters: dict[str, State]) -> None:
    """Write the files that `prepare` and `import-adapter` read.

    `converters` has the keys `user` and `item`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(user, (user + step) % len(items)) for user in range(len(users)) for step in range(4)]
    for name, chosen in (
        ("trn", pairs[::2] + pairs[1::4]),
        ("val", pairs[3::8]),
        ("tst", pairs[7::8]),
    ):
        (folder / f"total_{name}.csv").write_text(
            "user,item\n" + "".join(f"{user},{item}\n" for user, item in chosen)
        )
    lines = [
        f'{{"uid": {user}, "iid": {item}, "title": "Place {item}", '
        f'"user_summary": "Guest {user}.", "item_summary": "Quiet.", '
        f'"explanation": "The garden of place {item} is quiet."}}\n'
        for user, item in pairs
    ]
    (folder / "data.jsonl").write_text("".join(lines))
    for name, data in {
        **vector_files(users, items),
        **{f"{side}_converter.pkl": converter_bytes(state) for side, state in converters.items()},
    }.items():
        (folder / name).write_bytes(data)

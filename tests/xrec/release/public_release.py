"""Files in the layout of the public XRec release, and its converter's equation: the oracle of the import's tests."""

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
    """A converter's state dict by the release's names, all tensors random; weights as small as theirs."""
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
    """The release's converter in eval mode (N, D) to (N, H), sample by sample, from its equation; no dropout, no noise."""
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
    """As the release saves them: pickles of two slices of one table, which has a gradient to come."""
    table = torch.cat([users, items]).requires_grad_() * 1
    return {
        "user_emb.pkl": pickle.dumps(table[: len(users)]),
        "item_emb.pkl": pickle.dumps(table[len(users) :]),
    }


def write_release(folder: Path, users: Tensor, items: Tensor, converters: dict[str, State]) -> None:
    """The files that `prepare` and `import-adapter` read, of a small catalogue; `converters` by `user` and `item`."""
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
        f'{{"uid": {user}, "iid": {item}, "title": "Place {item}", "user_summary": "Guest {user}.", "item_summary": "Quiet.", '
        f'"explanation": "The garden of place {item} is quiet."}}\n'
        for user, item in pairs
    ]
    (folder / "data.jsonl").write_text("".join(lines))
    for name, data in {
        **vector_files(users, items),
        **{f"{side}_converter.pkl": converter_bytes(state) for side, state in converters.items()},
    }.items():
        (folder / name).write_bytes(data)

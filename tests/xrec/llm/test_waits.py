"""Once token IDs are looked up on the CPU, the embedding reads no value from the model's device.

Each operation that does makes the host wait for a GPU. A CPU runs the same operations.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.world.models import NUM_USERS, attach_toy, toy_model

V = 64
IDS = torch.tensor([[1, V, 2, V + NUM_USERS, 3], [V + NUM_USERS + 1, 4, 5, V + 2, V + 1]])
READS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}


class Waits(TorchDispatchMode):
    """Records the operations for which the host would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in READS or any(one is not None and one.dtype == torch.bool for one in indices):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_embedding_and_its_gradient_read_nothing_after_the_lookup(num_tokens):
    model = toy_model()
    embedding = attach_toy(model, "projected", num_tokens=num_tokens).train()
    lookup = embedding.lookup(IDS)
    with Waits() as waits:
        adapted = embedding.adapt(lookup)
        embeds = embedding.embed(lookup.text_ids, lookup.positions, adapted)
        (embeds.square().sum() + embedding.injection.square().sum()).backward()
    assert waits.seen == []
    assert all(parameter.grad is not None for parameter in embedding.user_adapter.parameters())


def test_waits_are_seen():
    mask = IDS >= V
    with Waits() as waits:
        assert mask.any()
        IDS[mask]
    assert waits.seen == ["is_nonzero", "index"] or waits.seen == ["_local_scalar_dense", "index"]

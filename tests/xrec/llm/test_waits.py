"""Training and prefill read no value from the model's device, so that the host waits for no GPU.

Tensors on the meta device have no values: an operation that reads one, copies one to the CPU, or
has a shape that depends on values raises an error there. `Waits` counts such operations on a CPU.
The one read that remains is for whole rows without padding, in models with one kind of layer.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.world.models import FAMILIES, NUM_USERS, attach_toy, tiny_decoder, toy_model
from tests.xrec.generate.cores import GREEDY, make_core, make_sharing_prompts
from xrec.llm.loss import Example, ExplanationLoss, PrefixCache
from xrec.train.adapter_model import checkpoint_layers

V = 64
IDS = torch.tensor([[1, V, 2, V + NUM_USERS, 3], [V + NUM_USERS + 1, 4, 5, V + 2, V + 1]])
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}
SHARED = [3, 1, 4]
EXAMPLES = [
    Example([*SHARED, 5, 6, 7, V + 2, 8, V + NUM_USERS + 1], [9, 2]),
    Example([*SHARED, 7, V + 1, V + NUM_USERS], [9, 10, 11, 2]),
]


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
    assert waits.seen == ["_local_scalar_dense", "index"]


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("injection", ["none", "projected", "direct"])
@pytest.mark.parametrize("parts", ["whole", "split", "checkpointed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_step_of_each_kind_reads_nothing(family, parts, injection):
    for (num_tokens, average_over), dtype in zip(
        [(1, "tokens"), (3, "explanations"), (3, "tokens")], DTYPES, strict=True
    ):
        model = tiny_decoder(family, **({"sliding_window": 100} if parts == "split" else {}))
        attach_toy(model, injection, num_tokens=num_tokens)
        model.to("meta", dtype)
        if parts == "checkpointed":
            checkpoint_layers(model)
        prefixes = PrefixCache(
            model, SHARED, num_positions=50, budget_bytes=2**20, split=parts == "split"
        )
        loss = ExplanationLoss(model, prefixes, average_over).train()
        loss(EXAMPLES).backward()
        assert (prefixes.num_bytes > 0) == (parts == "split")
        trained = [each for each in model.parameters() if each.requires_grad]
        torch.optim.AdamW(trained).step()


@pytest.mark.parametrize("injection", ["none", "projected", "direct"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_reads_nothing_before_the_first_token(family, injection):
    model = tiny_decoder(family)
    attach_toy(model, injection, num_tokens=2)
    core = make_core(model.to("meta"), pass_tokens=10)
    for prompt in make_sharing_prompts():
        core.add(prompt, GREEDY)
    for _ in range(4):
        assert core.step() == []
    assert core.report.num_computed_prompt_tokens == 40  # of a prefix, and of a user after it

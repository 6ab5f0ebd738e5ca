"""Training and prefill run in all their forms, and the host does not wait for a GPU meanwhile.

Tensors on the meta device have no values: an operation that reads one, copies one to the CPU, or
has a shape that depends on values raises an error there. The one read that remains is for whole
rows without padding, in models with one kind of layer.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.world.models import FAMILIES, NUM_USERS, attach_toy, tiny_decoder
from tests.xrec.generate.cores import GREEDY, make_core, make_sharing_prompts
from xrec.llm.loss import Example, ExplanationLoss, PrefixCache
from xrec.train.adapter_model import checkpoint_layers

V = 64
SHARED = [3, 1, 4]
EXAMPLES = [
    Example([*SHARED, 5, 6, 7, V + 2, 8, V + NUM_USERS + 1], [9, 2]),
    Example([*SHARED, 7, V + 1, V + NUM_USERS], [9, 10, 11, 2]),
]


class OneDevice(TorchDispatchMode):
    """Raises an error for an operation on tensors of two devices, other than a copy or a scalar.

    Some run on a GPU nevertheless, and wait for it: an index on the CPU, for example.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        devices = {one.device for one in tensors if one.dim()}
        assert len(devices) < 2 or func.overloadpacket is torch.ops.aten.copy_, func
        return func(*args, **(kwargs or {}))


def test_wait_of_any_kind_is_an_error():
    ones = torch.ones(3, device="meta")
    for wait in (Tensor.any, Tensor.nonzero, Tensor.tolist, Tensor.cpu, lambda t: t[t > 0]):
        with OneDevice(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
            bool(wait(ones))
    with OneDevice(), pytest.raises(AssertionError):
        ones[torch.tensor([0, 1])]


INJECTIONS, PARTS = ["none", "projected", "direct"], ["whole", "split", "checkpointed"]
SETTINGS = [
    (1, "tokens", torch.float32),
    (3, "explanations", torch.bfloat16),
    (3, "tokens", torch.float16),
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_step_of_each_kind_reads_nothing(family, parts):
    # Each pair of values of family, parts, injection and settings occurs.
    number, part = [*FAMILIES].index(family), PARTS.index(parts)
    injection = INJECTIONS[(number + part) % 3]
    num_tokens, average_over, dtype = SETTINGS[(number + 2 * part) % 3]
    model = tiny_decoder(family, **({"sliding_window": 100} if parts == "split" else {}))
    attach_toy(model, injection, num_tokens=num_tokens)
    model.to("meta", dtype)
    if parts == "checkpointed":
        checkpoint_layers(model)
    prefixes = PrefixCache(
        model, SHARED, num_positions=50, budget_bytes=2**20, split=parts == "split"
    )
    loss = ExplanationLoss(model, prefixes, average_over).train()
    with OneDevice():
        loss(EXAMPLES).backward()
    assert (prefixes.num_bytes > 0) == (parts == "split")
    torch.optim.AdamW(each for each in model.parameters() if each.requires_grad).step()


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_reads_nothing_before_the_first_token(family):
    injection = INJECTIONS[[*FAMILIES].index(family) % 3]
    model = tiny_decoder(family)
    attach_toy(model, injection, num_tokens=2)
    core = make_core(model.to("meta"), pass_tokens=10)
    for prompt in make_sharing_prompts():
        core.add(prompt, GREEDY)
    for _ in range(4):
        with OneDevice():
            assert core.step() == []
    assert core.report.num_computed_prompt_tokens == 40  # of a prefix, and of a user after it

"""PETER by whole passes for each token, LoRA against its equation, and the vocabulary."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.world.models import HIDDEN_SIZE, toy_model
from xrec.lab.baselines.codec import BEGIN, END
from xrec.lab.baselines.data import TextExample, collate
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.peter import PETER

USERS, ITEMS, TOKENS = 5, 4, 13
SIZES: dict[str, Any] = {"num_users": USERS, "num_items": ITEMS, "num_tokens": TOKENS}
EXAMPLES = [
    TextExample(1, 2, (7, 4, 9, END)),
    TextExample(0, 3, (5, END)),
    TextExample(3, 0, (6, 8)),  # cut, so without an end
]
ModelT = TypeVar("ModelT", bound=nn.Module)


def drawn(model: ModelT, scale: float = 1.0) -> ModelT:
    """The model in eval mode with weights at random; no bias is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return model.eval()


def peter() -> PETER:
    sizes = {"embedding_dim": 8, "feedforward_size": 12, "dropout": 0.4}
    return drawn(PETER(**SIZES, **sizes), 0.5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def peter_logits(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """The logits at all places, computed for this one text, (2 + 1 + T, V)."""
    with torch.no_grad():
        hidden = model.hidden(collate([pair]), torch.tensor([[BEGIN, *text]]))
        return model.output(hidden)[0].double().numpy()


def by_whole_peter(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    log_p = log_softmax(peter_logits(model, pair, text[:-1]))[2:]
    return np.array([log_p[place, token] for place, token in enumerate(text)])


def test_losses_are_the_nll_of_the_tokens_that_count_by_hand():
    model, context = peter(), 0.0
    for each in EXAMPLES:
        log_p = log_softmax(peter_logits(model, each, each.token_ids[:-1]))
        context -= sum(log_p[1, word] for word in each.token_ids if word != END)
    text = -sum(by_whole_peter(model, each, each.token_ids).sum() for each in EXAMPLES)
    with torch.no_grad():
        found = [loss.item() for loss in model(collate(EXAMPLES))]
    assert found == pytest.approx([text, context], rel=1e-4)
    assert model.counts(collate(EXAMPLES)).tolist() == [8, 6]


def test_peter_writes_with_the_probabilities_that_it_learns():
    model, text = peter(), [7, 4, 9]
    one, other = EXAMPLES[0], EXAMPLES[2]  # beside it stands another pair
    pairs = collate([one, other])
    so_far = torch.tensor([[BEGIN, *text[:-1]], [BEGIN, 11, 11]])
    with torch.no_grad():
        found = [
            model.next_logits(pairs, so_far[:, : place + 1]).log_softmax(1)[0, token].item()
            for place, token in enumerate(text)
        ]
    assert found == pytest.approx(by_whole_peter(model, one, text), rel=1e-4)


IDS = torch.tensor([[5, 9, 3, 17]])


@pytest.fixture
def lora():
    """A toy model with low-rank weights that are not zeros any more."""
    pytest.importorskip("peft", reason="the extra compare is not installed")
    made = LoRA(toy_model(), rank=3)
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return made


def test_lora_merged_model_is_an_ordinary_one_with_the_same_logits(lora):
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers, of rank 3.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in lora.parameters() if each.requires_grad) == 6 * sizes
    expected = lora.language_model(IDS).logits
    plain = lora.merged()
    assert torch.allclose(plain(IDS).logits, expected, atol=1e-3)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module) for module in plain.modules()} == {
        type(module) for module in toy_model().modules()
    }
    assert not any(each.requires_grad for each in plain.parameters())

"""PETER by whole passes for each token, and LoRA against its equation."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy import HIDDEN_SIZE, explanation_nll, toy_model
from xrec.errors import ModelError
from xrec.lab.baselines.codec import BEGIN, END
from xrec.lab.baselines.data import TextExample, collate
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.peter import PETER, sines
from xrec.llm.examples import Example
from xrec.llm.examples import collate as collate_rows

USERS, ITEMS, TOKENS, A = 5, 4, 13, 2
SIZES: dict[str, Any] = {"num_users": USERS, "num_items": ITEMS, "num_tokens": TOKENS}
EXAMPLES = [
    TextExample(1, 2, (7, 4, 9, END), (4, 5)),
    TextExample(0, 3, (5, END), (6, 0)),
    TextExample(3, 0, (6, 8), (5, 6)),  # cut, so without an end
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
    return drawn(PETER(**SIZES, **sizes, num_aspect_words=A), 0.5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def peter_logits(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """The logits at all places, computed for this one text, (2 + A + 1 + T, V)."""
    with torch.no_grad():
        hidden = model.hidden(collate([pair]), torch.tensor([[BEGIN, *text]]))
        return model.output(hidden)[0].double().numpy()


def by_whole_peter(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    log_p = log_softmax(peter_logits(model, pair, text[:-1]))[2 + A :]
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


@pytest.mark.parametrize("place", range(2 + A + 4))
def test_peter_changed_place_changes_those_that_may_see_it_and_no_others(place):
    """The whole model obeys the mask: u, i, two aspects, the begin token, three words."""
    model = peter()
    pairs, text = collate([TextExample(1, 2, (), (4, 5))]), torch.tensor([[BEGIN, 6, 7, 8]])

    def hidden(changed: int | None) -> torch.Tensor:
        changes = torch.zeros(1, 2 + A + 4, 8)
        if changed is not None:
            changes[:, changed] = 1.0
        handle = model.dropout.register_forward_hook(lambda *called: called[2] + changes)
        found = model.hidden(pairs, text)[0]
        handle.remove()
        return found

    with torch.no_grad():
        differs = (hidden(place) - hidden(None)).abs().amax(dim=1) > 1e-6
    expected = [other >= place or (other, place) == (0, 1) for other in range(2 + A + 4)]
    assert differs.tolist() == expected


def _next(model: PETER, aspects: tuple[int, int]) -> torch.Tensor:
    return model.next_logits(collate([TextExample(1, 2, (), aspects)]), torch.tensor([[BEGIN]]))


def test_peter_aspect_that_is_none_is_not_seen():
    model = peter()
    with torch.no_grad():
        before = _next(model, (4, 0))
        model.words.weight[0] += 1.0  # the vector of padding
        after, other = _next(model, (4, 0)), _next(model, (5, 0))
    assert torch.allclose(before, after, atol=1e-6)
    assert not torch.allclose(before, other, atol=1e-3)


@pytest.mark.parametrize("size", [6, 7])
def test_sines_are_those_of_the_formula(size):
    table = sines(4, size)
    for place, k in itertools.product(range(4), range(size)):
        angle = place / 10000 ** (2 * (k // 2) / size)
        expected = np.cos(angle) if k % 2 else np.sin(angle)
        assert table[place, k].item() == pytest.approx(expected, abs=1e-5)


def test_dropout_is_in_training_only():
    batch, model = collate(EXAMPLES), peter()
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_number_of_parameters_at_published_sizes_is_that_of_the_formula():
    d, f = 512, 2048
    layer = 3 * (d * d + d) + d * d + d + (d * f + f) + (f * d + d) + 2 * 2 * d
    expected = (USERS + ITEMS + TOKENS) * d + 2 * layer + (d * TOKENS + TOKENS)
    for num_aspect_words in (0, 3):  # PETER+ has no more
        made = PETER(**SIZES, num_aspect_words=num_aspect_words)
        assert sum(each.numel() for each in made.parameters()) == expected


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


def test_lora_new_weights_leave_the_model_as_it_is_and_alone_are_trained():
    pytest.importorskip("peft", reason="the extra compare is not installed")
    model, frozen = (LoRA(toy_model().to(torch.bfloat16), rank=3), toy_model().to(torch.bfloat16))
    assert torch.equal(model.language_model(IDS).logits, frozen(IDS).logits)
    new = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert all(".lora_" in name for name in new)
    assert {each.dtype for each in new.values()} == {torch.float32}
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in new.values()) == 2 * 3 * sizes


def test_lora_merged_model_is_an_ordinary_one_with_the_same_logits(lora):
    expected = lora.language_model(IDS).logits
    plain = lora.merged()
    assert torch.allclose(plain(IDS).logits, expected, atol=1e-3)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module) for module in plain.modules()} == {
        type(module) for module in toy_model().modules()
    }
    assert not any(each.requires_grad for each in plain.parameters())


def test_lora_loss_is_the_nll_of_the_explanations_after_their_prompts(lora):
    examples = [Example([5, 9, 3], [17, 4, 2]), Example([7], [8, 2])]
    batch = collate_rows(examples)
    assert lora.counts(batch).tolist() == [5]
    means = dict(explanation_nll(lora.language_model, examples, 1))
    assert lora(batch).tolist() == pytest.approx([3 * means[0] + 2 * means[1]], rel=1e-4)


def test_lora_layers_that_are_not_there_are_named(monkeypatch):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    monkeypatch.setattr("xrec.lab.baselines.lora.TARGET_MODULES", ("q_proj", "c_attn"))
    with pytest.raises(ModelError, match="no layers named c_attn"):
        LoRA(toy_model(), rank=3)

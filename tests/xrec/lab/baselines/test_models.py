"""PETER by whole passes for each token, LoRA against its equation, and the vocabulary."""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.errors import raises
from tests.world.models import HIDDEN_SIZE, explanation_nll, toy_model
from xrec.errors import ModelError
from xrec.lab.baselines.codec import BEGIN, END, PAD, SPECIAL, UNKNOWN, Words
from xrec.lab.baselines.data import TextExample, collate
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.peter import PETER, sines
from xrec.llm.examples import Example
from xrec.llm.examples import collate as collate_rows

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


def test_peter_changed_place_changes_those_that_may_see_it_and_no_others():
    """The whole model obeys the mask: u, i, the begin token, three words."""
    model, places = peter(), range(2 + 4)
    pairs, text = collate([TextExample(1, 2, ())]), torch.tensor([[BEGIN, 6, 7, 8]])

    def hidden(changed: int | None) -> torch.Tensor:
        changes = torch.zeros(1, len(places), 8)
        if changed is not None:
            changes[:, changed] = 1.0
        handle = model.dropout.register_forward_hook(lambda *called: called[2] + changes)
        found = model.hidden(pairs, text)[0]
        handle.remove()
        return found

    with torch.no_grad():
        before = hidden(None)
        for place in places:
            differs = (hidden(place) - before).abs().amax(dim=1) > 1e-6
            assert differs.tolist() == [n >= place or (n, place) == (0, 1) for n in places]


@pytest.mark.parametrize("size", [6, 7])
def test_sines_are_those_of_the_formula(size):
    table = sines(4, size)
    for place, k in itertools.product(range(4), range(size)):
        angle = place / 10000 ** (2 * (k // 2) / size)
        expected = np.cos(angle) if k % 2 else np.sin(angle)
        assert table[place, k].item() == pytest.approx(expected, abs=1e-5)


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


def test_lora_loss_is_the_nll_of_the_explanations_after_their_prompts(lora):
    examples = [Example([5, 9, 3], [17, 4, 2]), Example([7], [8, 2])]
    batch = collate_rows(examples)
    assert lora.counts(batch).tolist() == [5]
    means = dict(explanation_nll(lora.language_model, examples, 1))
    assert lora(batch).tolist() == pytest.approx([3 * means[0] + 2 * means[1]], rel=1e-4)


def test_lora_layers_that_are_not_there_are_named(monkeypatch):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    monkeypatch.setattr("xrec.lab.baselines.lora.TARGET_MODULES", ("q_proj", "c_attn"))
    with raises(ModelError, "layers_missing", saw=["c_attn"]):
        LoRA(toy_model(), rank=3)


# The vocabulary


@pytest.mark.parametrize(
    "text",
    [
        "It's  fine - \u201cvery\u201d\nwell-known, 3.5 of 5!",
        "Im M\u00fcnchner \u201eHof\u201c gibt's Ma\u00df um 12,50 \u20ac \u2026 sch\u00f6n!",
        "\u3053\u306e\u5e97\u306e\u30e9\u30fc\u30e1\u30f3\u306f\u304a\u3044\u3057\u3044\u3002",
        "<pad> is no word, 5_000 is; \U0001f469\u200d\U0001f373 cooks its cafe\u0301\t pie.",
        "",
    ],
)
def test_words_decode_what_they_encode_to_the_letter_but_for_blanks_and_composed_letters(text):
    words = Words.of([text], max_words=1000)
    ids = words.encode(text)
    expected = unicodedata.normalize("NFC", " ".join(text.split()))
    assert words.decode(ids) == words.decode([*ids, END, 7]) == expected
    assert not {PAD, BEGIN, END, UNKNOWN} & set(ids)


def test_words_keep_the_most_frequent_pieces_and_of_equal_ones_the_first():
    words = Words.of(["b a c", "c b c", "c"], max_words=3)
    # " c" twice; "b" (begins a text), " b", " a", "c" twice ("c b c" and "c")
    assert words.pieces == (*SPECIAL, " c", "c", " a")
    assert words.encode("c a b") == [5, 6, UNKNOWN]
    assert len(words) == 7

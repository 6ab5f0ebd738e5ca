"""PEPLER around a toy Llama: what is joined, what is trained when, its losses by hand."""

import itertools

import numpy as np
import pytest
import torch

from tests.toy import HIDDEN_SIZE, toy_model
from xrec.lab.baselines.batch import TextExample, collate, collate_pairs
from xrec.lab.baselines.models.pepler import PEPLER

USERS, ITEMS, TOKENS, END = 5, 4, 64, 2


def make() -> PEPLER:
    torch.manual_seed(5)
    model = PEPLER(toy_model(vocab_size=TOKENS), num_users=USERS, num_items=ITEMS).eval()
    with torch.no_grad():
        for table in (model.users, model.items):
            table.weight.copy_(torch.randn_like(table.weight) * 0.3)
    return model


def test_pepler_reads_the_user_then_the_item_then_the_words() -> None:
    model = make()
    found = model.joined(collate_pairs([3, 1], [0, 2], [()] * 2), torch.tensor([[7, 8], [9, 7]]))
    words = model.language_model.get_input_embeddings().weight
    for row, (user, item, text) in enumerate([(3, 0, [7, 8]), (1, 2, [9, 7])]):
        expected = torch.stack(
            [model.users.weight[user], model.items.weight[item], *(words[token] for token in text)]
        )
        assert torch.equal(found[row], expected)


def log_probabilities(model: PEPLER, user: int, item: int, text: list[int]) -> np.ndarray:
    """ln p of each token, with one whole pass for each, and no padding."""
    words = model.language_model.get_input_embeddings().weight
    found = []
    for place, token in enumerate(text):
        read = [model.users.weight[user], model.items.weight[item], *words[text[:place]]]
        with torch.no_grad():
            logits = model.language_model(inputs_embeds=torch.stack(list(read))[None]).logits
        found.append(logits[0, -1].double().log_softmax(0)[token].item())
    return np.array(found)


def test_pepler_loss_is_the_nll_of_each_texts_tokens() -> None:
    model = make()
    examples = [TextExample(1, 2, (7, 4, 9, END), 3), TextExample(4, 0, (5, END), 1)]
    with torch.no_grad():
        totals = model(collate(examples))
    expected = -sum(
        log_probabilities(model, each.user_index, each.item_index, list(each.token_ids)).sum()
        for each in examples
    )
    assert totals.tolist() == pytest.approx([expected, 0, 0], rel=1e-4)
    assert model.loss_weights == (1.0, 0.0, 0.0)


def test_pepler_writes_with_the_probabilities_that_it_learns() -> None:
    model, text = make(), [7, 4, 9]
    with torch.no_grad():
        step = model.first(collate_pairs([1, 0], [2, 3], [()] * 2))
        found = [step.logits.log_softmax(1)[0, text[0]].item()]
        for previous, token in itertools.pairwise(text):
            step = model.next(step, torch.tensor([previous, 11]))
            found.append(step.logits.log_softmax(1)[0, token].item())
    assert found == pytest.approx(log_probabilities(model, 1, 2, text), rel=1e-4)


def test_pepler_trains_the_vectors_first_and_then_everything() -> None:
    model = make()
    assert model.num_phases == 2
    model.begin_phase(0)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"users.weight", "items.weight"}
    model.begin_phase(1)
    assert all(each.requires_grad for each in model.parameters())


def test_pepler_number_of_parameters_is_that_of_the_formula() -> None:
    h, f, layers, heads, kv_heads = HIDDEN_SIZE, 48, 2, 4, 2
    attention = 2 * h * h + 2 * h * (h // heads * kv_heads)  # q, o; k, v
    layer = attention + 3 * h * f + 2 * h
    llama = 2 * TOKENS * h + layers * layer + h  # words and output are not tied here
    expected = llama + (USERS + ITEMS) * h
    assert sum(each.numel() for each in make().parameters()) == expected

"""Att2Seq against its equations in plain numpy."""

import itertools

import numpy as np
import pytest
import torch

from xrec.config.baselines import Att2SeqConfig
from xrec.lab.baselines.batch import collate, collate_pairs, example
from xrec.lab.baselines.models.att2seq import Att2Seq
from xrec.lab.baselines.words import BEGIN, END

USERS, ITEMS, TOKENS, D, H, L = 5, 4, 11, 3, 6, 2


@pytest.fixture
def model() -> Att2Seq:
    torch.manual_seed(1)
    config = Att2SeqConfig(embedding_dim=D, hidden_size=H, num_layers=L, dropout=0.5)
    made = Att2Seq(
        config, num_users=USERS, num_items=ITEMS, num_tokens=TOKENS, begin_id=BEGIN
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))  # no bias is zero
    return made


def _numpy(model: Att2Seq) -> dict[str, np.ndarray]:
    return {name: each.detach().double().numpy() for name, each in model.named_parameters()}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _first_states(p: dict[str, np.ndarray], user: int, item: int) -> np.ndarray:
    both = np.concatenate([p["users.weight"][user], p["items.weight"][item]])
    flat = np.tanh(p["encoder.weight"] @ both + p["encoder.bias"])
    return np.stack([flat[:H], flat[H:]])  # a piece for each layer


def _log_probabilities(
    p: dict[str, np.ndarray], user: int, item: int, text: list[int]
) -> np.ndarray:
    """ln p of each token of the text, by the LSTM's equations (Hochreiter, torch's gate order)."""
    h = _first_states(p, user, item)
    c = np.zeros_like(h)
    found = []
    for previous, token in zip([BEGIN, *text[:-1]], text, strict=True):
        x = p["words.weight"][previous]
        for layer in range(L):
            gates = (
                p[f"lstm.weight_ih_l{layer}"] @ x
                + p[f"lstm.bias_ih_l{layer}"]
                + p[f"lstm.weight_hh_l{layer}"] @ h[layer]
                + p[f"lstm.bias_hh_l{layer}"]
            )
            i, f, g, o = np.split(gates, 4)
            c[layer] = _sigmoid(f) * c[layer] + _sigmoid(i) * np.tanh(g)
            x = h[layer] = _sigmoid(o) * np.tanh(c[layer])
        logits = p["output.weight"] @ x + p["output.bias"]
        found.append(logits[token] - np.log(np.exp(logits).sum()))
    return np.array(found)


def test_att2seq_first_state_is_a_tanh_of_user_and_item_for_each_layer(model: Att2Seq) -> None:
    users, items = [3, 0, 3], [2, 1, 0]
    hidden, cell = model.first_state(collate_pairs(users, items, [()] * 3))
    assert hidden.shape == (L, 3, H)
    parameters = _numpy(model)
    for row, (user, item) in enumerate(zip(users, items, strict=True)):
        expected = _first_states(parameters, user, item)
        assert hidden[:, row].detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert not cell.any()


def test_att2seq_loss_is_the_nll_of_the_tokens_that_count(model: Att2Seq) -> None:
    texts = [[7, 4, 9, END], [5, END]]
    examples = [example((1, 2), texts[0][:-1], 9, END), example((4, 0), texts[1][:-1], 9, END)]
    totals = model(collate(examples))
    parameters = _numpy(model)
    expected = -sum(
        _log_probabilities(parameters, each.user_index, each.item_index, text).sum()
        for each, text in zip(examples, texts, strict=True)
    )
    assert totals.tolist() == pytest.approx([expected, 0, 0], rel=1e-5)
    assert model.loss_weights == (1.0, 0.0, 0.0)


def test_att2seq_writes_with_the_probabilities_that_it_learns(model: Att2Seq) -> None:
    text = [7, 4, 9]
    step = model.first(collate_pairs([1], [2], [()]))
    found = [step.logits.log_softmax(1)[0, text[0]].item()]
    for previous, token in itertools.pairwise(text):
        step = model.next(step, torch.tensor([previous]))
        found.append(step.logits.log_softmax(1)[0, token].item())
    assert found == pytest.approx(_log_probabilities(_numpy(model), 1, 2, text), rel=1e-4)


def test_att2seq_number_of_parameters_is_that_of_the_formula() -> None:
    config = Att2SeqConfig()  # those of the paper
    model = Att2Seq(config, num_users=USERS, num_items=ITEMS, num_tokens=TOKENS, begin_id=BEGIN)
    d, h = 64, 512
    tables = (USERS + ITEMS) * d + TOKENS * h
    encoder = 2 * d * 2 * h + 2 * h
    lstm = 2 * (4 * h * h + 4 * h * h + 8 * h)
    output = h * TOKENS + TOKENS
    assert sum(each.numel() for each in model.parameters()) == tables + encoder + lstm + output


def test_att2seq_dropout_is_between_layers_and_in_training_only(model: Att2Seq) -> None:
    batch = collate([example((1, 2), [7, 4], 9, END)])
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))

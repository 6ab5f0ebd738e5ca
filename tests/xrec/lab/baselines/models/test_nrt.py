"""NRT against its equations in plain numpy."""

import itertools

import numpy as np
import pytest
import torch

from xrec.config.baselines import NRTConfig
from xrec.lab.baselines.batch import TextExample, collate, collate_pairs
from xrec.lab.baselines.models.model import Ratings
from xrec.lab.baselines.models.nrt import NRT
from xrec.lab.baselines.words import BEGIN, END

USERS, ITEMS, TOKENS, D, H = 5, 4, 11, 3, 6
SCALE = Ratings(1, 5)
Arrays = dict[str, np.ndarray]


def make(ratings: Ratings | None, **settings: float) -> NRT:
    torch.manual_seed(2)
    config = NRTConfig(embedding_dim=D, hidden_size=H, num_rating_layers=3, **settings)
    model = NRT(
        config, num_users=USERS, num_items=ITEMS, num_tokens=TOKENS, begin_id=BEGIN, ratings=ratings
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if model.rating is not None:
            model.rating.output.weight.mul_(8)  # so that whole ratings differ
    return model


def arrays(model: NRT) -> Arrays:
    return {name: each.detach().double().numpy() for name, each in model.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rating_of(p: Arrays, user: int, item: int) -> float:
    hidden = np.concatenate([p["users.weight"][user], p["items.weight"][item]])
    for layer in range(3):
        hidden = sigmoid(
            p[f"rating.hidden.{layer}.weight"] @ hidden + p[f"rating.hidden.{layer}.bias"]
        )
    return float((p["rating.output.weight"] @ hidden + p["rating.output.bias"])[0])


def state_of(p: Arrays, user: int, item: int) -> np.ndarray:
    read = [p["users.weight"][user], p["items.weight"][item]]
    if "rating.output.bias" in p:
        one_hot = np.zeros(5)
        one_hot[int(np.clip(np.rint(rating_of(p, user, item)), 1, 5)) - 1] = 1
        read.append(one_hot)
    return np.tanh(p["encoder.weight"] @ np.concatenate(read) + p["encoder.bias"])


def log_probabilities(p: Arrays, user: int, item: int, text: list[int]) -> np.ndarray:
    """ln p of each token, by the GRU's equations in torch's order of gates (r, z, n)."""
    h, found = state_of(p, user, item), []
    for previous, token in zip([BEGIN, *text[:-1]], text, strict=True):
        x = p["words.weight"][previous]
        of_x = p["gru.weight_ih_l0"] @ x + p["gru.bias_ih_l0"]
        of_h = p["gru.weight_hh_l0"] @ h + p["gru.bias_hh_l0"]
        (xr, xz, xn), (hr, hz, hn) = np.split(of_x, 3), np.split(of_h, 3)
        z, n = sigmoid(xz + hz), np.tanh(xn + sigmoid(xr + hr) * hn)
        h = (1 - z) * n + z * h
        logits = p["output.weight"] @ h + p["output.bias"]
        found.append(logits[token] - np.log(np.exp(logits).sum()))
    return np.array(found)


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_nrt_first_state_is_a_tanh_of_user_item_and_rating(ratings: Ratings | None) -> None:
    model = make(ratings)
    users, items = [3, 0, 4], [2, 1, 0]
    state, found = model.first_state(collate_pairs(users, items, [()] * 3))
    p = arrays(model)
    expected = [state_of(p, user, item) for user, item in zip(users, items, strict=True)]
    assert state[0].detach().numpy() == pytest.approx(np.stack(expected), abs=1e-5)
    if ratings is None:
        assert found is None
    else:
        wanted = [rating_of(p, user, item) for user, item in zip(users, items, strict=True)]
        assert found is not None
        assert found.tolist() == pytest.approx(wanted, rel=1e-4)
        assert len({round(each) for each in wanted}) > 1  # else the one-hot shows nothing


def test_nrt_loss_has_the_text_and_the_rating_where_one_is_known() -> None:
    model, p = make(SCALE), None
    p = arrays(model)
    examples = [
        TextExample(1, 2, (7, 4, END), 2, rating=4.0),
        TextExample(0, 3, (5, END), 1),  # no rating
        TextExample(3, 0, (6, 6, END), 2, rating=1.0),
    ]
    totals = model(collate(examples))
    text = -sum(
        log_probabilities(p, each.user_index, each.item_index, list(each.token_ids)).sum()
        for each in examples
    )
    off = [rating_of(p, 1, 2) - 4.0, rating_of(p, 3, 0) - 1.0]
    assert totals.tolist() == pytest.approx([text, 0, off[0] ** 2 + off[1] ** 2], rel=1e-4)
    assert model.loss_weights == (1.0, 0.0, 1.0)
    totals[2].backward()
    assert all(each.grad is None or bool(each.grad.isfinite().all()) for each in model.parameters())
    assert not model.users.weight.grad[0].any()  # whose rating is not known


def test_nrt_without_ratings_has_no_rating_loss() -> None:
    model = make(None)
    totals = model(collate([TextExample(1, 2, (7, END), 1, rating=4.0)]))
    assert totals[2] == 0


def test_nrt_writes_with_the_probabilities_that_it_learns() -> None:
    model, text = make(SCALE), [7, 4, 9]
    step = model.first(collate_pairs([1], [2], [()]))
    found = [step.logits.log_softmax(1)[0, text[0]].item()]
    for previous, token in itertools.pairwise(text):
        step = model.next(step, torch.tensor([previous]))
        found.append(step.logits.log_softmax(1)[0, token].item())
    assert found == pytest.approx(log_probabilities(arrays(model), 1, 2, text), rel=1e-4)


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_nrt_number_of_parameters_is_that_of_the_formula(ratings: Ratings | None) -> None:
    config = NRTConfig()  # those of the paper
    model = NRT(
        config, num_users=USERS, num_items=ITEMS, num_tokens=TOKENS, begin_id=BEGIN, ratings=ratings
    )
    d, h = 300, 400
    head = (2 * d * h + h) + 3 * (h * h + h) + (h + 1) if ratings else 0
    encoder = (2 * d + (5 if ratings else 0)) * h + h
    gru = 3 * (d * h + h * h + 2 * h)
    expected = (USERS + ITEMS + TOKENS) * d + head + encoder + gru + h * TOKENS + TOKENS
    assert sum(each.numel() for each in model.parameters()) == expected


def test_ratings_one_hot_is_of_the_nearest_rating_of_the_scale() -> None:
    found = Ratings(1, 5).one_hot(torch.tensor([0.2, 1.6, 4.4, 9.0]))
    assert found.argmax(dim=1).tolist() == [0, 1, 3, 4]
    assert found.sum(dim=1).tolist() == [1, 1, 1, 1]

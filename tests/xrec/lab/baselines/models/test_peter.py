"""PETER: its mask element by element, its three losses by hand, its writing by its reading."""

import numpy as np
import pytest
import torch

from xrec.config.baselines import PETERConfig
from xrec.lab.baselines.batch import TextExample, collate, collate_pairs
from xrec.lab.baselines.models.model import Ratings
from xrec.lab.baselines.models.peter import PETER, may_see, sines
from xrec.lab.baselines.words import BEGIN, END

USERS, ITEMS, TOKENS, D, A = 5, 4, 13, 8, 2
SCALE = Ratings(1, 5)


def make(num_aspect_words: int = 0, ratings: Ratings | None = None) -> PETER:
    torch.manual_seed(4)
    config = PETERConfig(embedding_dim=D, num_heads=2, feedforward_size=12, dropout=0.4)
    model = PETER(
        config,
        num_users=USERS,
        num_items=ITEMS,
        num_tokens=TOKENS,
        begin_id=BEGIN,
        num_aspect_words=num_aspect_words,
        ratings=ratings,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def test_mask_is_causal_but_for_the_user_who_sees_the_item() -> None:
    #        u  i  b  w  w
    assert may_see(5).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("place", range(2 + A + 4))
def test_peter_changed_place_changes_those_that_may_see_it_and_no_others(place: int) -> None:
    """The whole model obeys the mask: u, i, two aspects, the begin token, three words."""
    model = make(A)
    pairs, text = collate_pairs([1], [2], [(4, 5)]), torch.tensor([[BEGIN, 6, 7, 8]])

    def hidden(changed: int | None) -> torch.Tensor:
        changes = torch.zeros(1, 2 + A + 4, D)
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


def test_peter_aspect_that_is_none_is_not_seen() -> None:
    model = make(A)
    with torch.no_grad():
        before = model.first(collate_pairs([1], [2], [(4, 0)])).logits
        model.words.weight[0] += 1.0  # the vector of padding
        after = model.first(collate_pairs([1], [2], [(4, 0)])).logits
        other = model.first(collate_pairs([1], [2], [(5, 0)])).logits
    assert torch.allclose(before, after, atol=1e-6)
    assert not torch.allclose(before, other, atol=1e-3)


def logits_after(model: PETER, example: TextExample, text: list[int]) -> torch.Tensor:
    """The logits at all places, computed for this one text, (2 + A + 1 + T, V)."""
    pairs = collate_pairs([example.user_index], [example.item_index], [example.aspect_ids])
    return model.output(model.hidden(pairs, torch.tensor([[BEGIN, *text]]))[0])


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_peter_losses_are_text_context_and_rating_by_hand(ratings: Ratings | None) -> None:
    model = make(A, ratings)
    examples = [
        TextExample(1, 2, (7, 4, 9, END), 3, (4, 5), rating=4.0),
        TextExample(3, 0, (5, 6), 2, (6, 0)),  # cut, and without a rating
    ]
    with torch.no_grad():
        totals = model(collate(examples))
        text = context = 0.0
        for example in examples:
            logits = logits_after(model, example, list(example.token_ids[:-1])).double().numpy()
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            begin = 2 + A
            text -= sum(log_p[begin + t, token] for t, token in enumerate(example.token_ids))
            context -= sum(log_p[1, word] for word in example.token_ids if word != END)
    assert totals[:2].tolist() == pytest.approx([text, context], rel=1e-4)
    if ratings is None:
        assert totals[2] == 0
    else:
        with torch.no_grad():
            hidden = model.hidden(collate(examples[:1]).pairs, torch.tensor([[BEGIN]]))
            assert model.rating_hidden is not None
            assert model.rating_output is not None
            inner = torch.sigmoid(model.rating_hidden(hidden[0, 0]))
            rating = model.rating_output(inner).item()
        assert totals[2].item() == pytest.approx((rating - 4.0) ** 2, rel=1e-4)
    assert model.loss_weights == (1.0, 1.0, 0.1)


def test_peter_writes_with_the_probabilities_that_it_learns() -> None:
    model = make(A)
    examples = [TextExample(1, 2, (), 0, (4, 5)), TextExample(3, 0, (), 0, (6, 0))]
    texts = [[7, 4, 9], [5, 6, 12]]
    pairs = collate_pairs([1, 3], [2, 0], [(4, 5), (6, 0)])
    with torch.no_grad():
        step = model.first(pairs)
        found = [step.logits]
        for place in range(3):
            step = model.next(step, torch.tensor([text[place] for text in texts]))
            found.append(step.logits)
        together = torch.stack(found, dim=1)  # (2, 4, V)
        for row, (example, text) in enumerate(zip(examples, texts, strict=True)):
            alone = logits_after(model, example, text)[2 + A :]
            assert torch.allclose(together[row], alone, atol=1e-4)


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_peter_number_of_parameters_is_that_of_the_formula(ratings: Ratings | None) -> None:
    config = PETERConfig()  # those of the paper
    model = PETER(
        config, num_users=USERS, num_items=ITEMS, num_tokens=TOKENS, begin_id=BEGIN, ratings=ratings
    )
    d, f = 512, 2048
    attention = 3 * (d * d + d) + d * d + d
    layer = attention + (d * f + f) + (f * d + d) + 2 * 2 * d
    head = (d * d + d) + (d + 1) if ratings else 0
    expected = (USERS + ITEMS + TOKENS) * d + 2 * layer + (d * TOKENS + TOKENS) + head
    assert sum(each.numel() for each in model.parameters()) == expected


def test_peter_plus_has_no_more_parameters_than_peter() -> None:
    assert sum(p.numel() for p in make(A).parameters()) == sum(
        p.numel() for p in make().parameters()
    )


@pytest.mark.parametrize("size", [6, 7])
def test_sines_are_those_of_the_formula(size: int) -> None:
    table = sines(4, size)
    for place in range(4):
        for k in range(size):
            angle = place / 10000 ** (2 * (k // 2) / size)
            expected = np.cos(angle) if k % 2 else np.sin(angle)
            assert table[place, k].item() == pytest.approx(expected, abs=1e-5)

"""How far two texts of one pair agree, and which pairs are asked twice."""

import pytest

from tests.xrec.annotate.language_model.rows import pair_row
from xrec.annotate.language_model.agreement import (
    agreement_figures,
    is_in_sample,
    same_aspects,
    same_words,
)
from xrec.annotate.rows import Aspect, PairText


def _text(explanation: str, *aspects: str) -> PairText:
    return PairText(explanation, tuple(Aspect(name, "", "positive") for name in aspects))


@pytest.mark.parametrize(
    ("one", "other", "aspects", "words"),
    [
        (_text("It is soft.", "tone", "price"), _text("Soft, it is!", "Price", "tone"), 1.0, 1.0),
        (_text("It is soft.", "tone"), _text("Wide and red", "price"), 0.0, 0.0),
        (_text("It is soft.", "tone"), _text("It is", "tone", "price"), 0.5, 0.8),
        (_text("It is."), _text("It is."), 1.0, 1.0),
    ],
)
def test_agreement_of_two_texts(
    one: PairText, other: PairText, aspects: float, words: float
) -> None:
    assert same_aspects(one, other) == same_aspects(other, one) == aspects
    assert same_words(one, other) == pytest.approx(words)


def test_sample_of_pairs_has_its_share_and_is_the_same_each_time() -> None:
    rows = [pair_row("Soft.", number=number) for number in range(4000)]
    chosen = [row.user_id for row in rows if is_in_sample(row, 0.1)]
    assert 330 <= len(chosen) <= 470
    assert chosen == [row.user_id for row in rows if is_in_sample(row, 0.1)]
    assert set(chosen) < {row.user_id for row in rows if is_in_sample(row, 0.2)}
    assert not any(is_in_sample(row, 0.0) for row in rows)
    assert all(is_in_sample(row, 1.0) for row in rows)


def test_figures_of_agreement_are_means_over_the_pairs_that_were_asked_twice() -> None:
    costs = {"second_seed_rows": 4.0, "second_seed_aspects": 3.0, "second_seed_words": 1.0}
    assert agreement_figures(costs) == {
        "pairs_asked_with_two_seeds": 4.0,
        "same_aspects_of_two_seeds": 0.75,
        "same_words_of_two_seeds": 0.25,
    }
    assert agreement_figures({"prompt_tokens": 3.0}) == {}

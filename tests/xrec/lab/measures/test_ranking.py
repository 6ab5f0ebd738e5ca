"""Statements in an order: metrics by hand, and what popularity and the chooser put first."""

import math

import numpy as np
import pytest
import scipy.sparse

from tests.world.town import dataset_of, held_out
from xrec.aspects.choice import AspectChooser
from xrec.aspects.mentions import dataset_mentions
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.config.entries import RANKERS
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.ranking import StatementsRanked, rankers
from xrec.lab.measures.statements import Statements

LETTERS = ["amp", "bow", "cap", "drum"]
(PAIR,) = PAIRS = held_out((0, 0))
# Of item 0, two reviews praise drum and blame amp, one praises bow; of all, most praise bow.
TRAINED = [
    *((user, 0, 3) for user in (1, 2)),
    *((user, 0, 0, "negative") for user in (1, 2)),
    (1, 0, 1),
    *((user, 1, 1) for user in (0, 1, 2)),
    (0, 2, 0, "negative"),
    (0, 1, 0, "negative"),
    (0, 2, 2),
]
DATASET = dataset_of(
    aspects=LETTERS,
    named=[(0, 0, 3), (0, 0, 0, "negative"), (0, 0, 2), (0, 0, 1, "neutral")],
    trained=TRAINED,
    interactions=[(user, item, "train") for user, item in sorted({row[:2] for row in TRAINED})],
)
STATEMENTS = Statements(DATASET, PAIRS)


@pytest.mark.parametrize(
    ("text", "ndcg", "recall", "precision"),
    [
        # Candidates are drum, bow and no amp; of these relevant are drum and no amp.
        ("The drum.", 1 / (1 + 1 / math.log2(3)), 1 / 2, 1 / 10),
        ("The bow, the drum.", (1 / math.log2(3)) / (1 + 1 / math.log2(3)), 1 / 2, 1 / 10),
        ("An awful amp, a fine drum.", 1, 1, 2 / 10),
        ("The cap, an awful amp, a drum.", 1, 1, 2 / 10),  # cap is no candidate: it has no place
        ("A fine amp.", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_text_ranks_candidates_in_the_order_in_which_it_makes_them(text, ndcg, recall, precision):
    found = StatementsRanked(STATEMENTS).of_pairs(ScoredTexts((PAIR,), (text,)))
    assert [values[0] for values in found.values()] == pytest.approx([ndcg, recall, precision])
    assert list(found) == ["ranking_ndcg", "ranking_recall", "ranking_precision"]


def test_pair_without_a_relevant_candidate_has_no_ranking():
    pairs = held_out((1, 2), (1, 1))  # nothing is said in either review
    statements = Statements(DATASET, pairs)
    found = StatementsRanked(statements).of_pairs(ScoredTexts(tuple(pairs), ("The cap.",) * 2))
    assert np.isnan(np.stack(list(found.values()))).all()


def test_ranking_beyond_the_tenth_gains_nothing():
    names = [f"part {number:02d}" for number in range(12)]
    pairs = held_out((0, 0))
    dataset = dataset_of(
        aspects=names, named=[(0, 0, 0), (0, 0, 11)], trained=[(1, 0, n) for n in range(12)]
    )
    keys = [(name, "positive") for name in reversed(names)]  # part 11 first, part 00 twelfth
    ranked = StatementsRanked(Statements(dataset, pairs), lambda pair: lambda key: -keys.index(key))
    found = ranked.of_pairs(ScoredTexts(tuple(pairs), ("",)))
    expected = [1 / (1 + 1 / math.log2(3)), 1 / 2, 1 / 10]
    assert [values[0] for values in found.values()] == pytest.approx(expected)


def chooser() -> AspectChooser:
    """By the item's own counts alone: nobody is near, and users do not matter."""
    none = scipy.sparse.csr_matrix((3, 3), dtype=np.float32)
    weights = Weights(prior_reviews=1e-6, own_weight=0)
    return AspectChooser(AspectScorer(dataset_mentions(DATASET, "train"), none, weights))


def order_of(name: str) -> list[tuple[str, str]]:
    return list(rankers(STATEMENTS, chooser())[name].order(PAIR, ""))


def test_rankers_sort_the_candidates_by_what_their_name_says():
    drum, bow, no_amp = ("drum", "positive"), ("bow", "positive"), ("amp", "negative")
    # Reviews of the item: no amp 2, drum 2, bow 1; of the user: no amp 2, bow 1; of all: no amp 4,
    # bow 4, drum 2.
    assert order_of("item_popularity") == [no_amp, drum, bow]
    assert order_of("user_popularity") == [no_amp, bow, drum]
    assert order_of("global_popularity") == [no_amp, bow, drum]
    # The chooser counts what is not blamed: drum 2, bow 1, amp 0.
    assert order_of("chooser") == [drum, bow, no_amp]
    assert sorted(order_of("random")) == sorted([no_amp, bow, drum])
    assert tuple(rankers(STATEMENTS, chooser())) == RANKERS
    assert tuple(rankers(STATEMENTS, None)) == RANKERS[:-1]


def test_ranker_is_measured_as_a_text_with_its_order_is():
    of_text = StatementsRanked(STATEMENTS).of_pairs(
        ScoredTexts((PAIR,), ("An awful amp, a drum and a bow.",))
    )
    of_ranker = rankers(STATEMENTS, None)["item_popularity"].of_pairs(ScoredTexts((PAIR,), ("",)))
    assert {name: values.tolist() for name, values in of_text.items()} == {
        name: values.tolist() for name, values in of_ranker.items()
    }


def test_random_order_is_drawn_anew_for_each_pair_and_the_same_for_the_same_pair():
    pairs = held_out(*((user, 0) for user in range(3)))
    first, again = (
        [rankers(STATEMENTS, None)["random"].order(pair, "") for pair in pairs] for _ in range(2)
    )
    assert again == first
    assert len({tuple(order) for order in first}) > 1

"""The scorer against its formula written out, and what a pair's own review must not tell."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from tests.xrec.aspects.conftest import NUM_ASPECTS, NUM_ITEMS, NUM_USERS, town
from xrec.aspects.fit import draw_others, draw_users, fit, ndcg
from xrec.aspects.mentions import Mentions
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer, Weights

WEIGHTS = Weights(prior_reviews=3.0, similarity_power=2.0, own_weight=0.4, own_reviews=5.0)


def expected_score(m: Mentions, near: np.ndarray, user: int, item: int, aspect: int) -> float:
    """The formula of the module, by loops over reviews."""
    x = m.aspects.toarray()
    reviews = list(zip(m.users.tolist(), m.items.tolist(), x[:, aspect].tolist(), strict=True))
    p = (sum(r[2] for r in reviews) + 0.5) / (len(reviews) + 1)
    weights = {j: near[item, j] ** WEIGHTS.similarity_power for j in near[item].nonzero()[0]}
    n = {j: sum(r[1] == j for r in reviews) for j in range(m.num_items)}
    c = {j: sum(r[2] for r in reviews if r[1] == j) for j in range(m.num_items)}
    floor = 0.5 * sum(weights.values()) / len(weights)
    q = (sum(w * c[j] for j, w in weights.items()) + floor * p) / (
        sum(w * n[j] for j, w in weights.items()) + floor
    )
    of_item = c[item] + WEIGHTS.prior_reviews * q  # its denominator ranks nothing
    own = sum(r[2] for r in reviews if r[0] == user)
    habit = math.log1p(own / (WEIGHTS.own_reviews * p))
    return math.log(of_item) + WEIGHTS.own_weight * habit


def test_scores_equal_the_formula_written_out(mentions, neighbours):
    users, items = np.array([0, 3, 7]), np.array([1, 5, 2])
    found = AspectScorer(mentions, neighbours, WEIGHTS).scores(users, items)
    near = neighbours.toarray()
    expected = [
        [expected_score(mentions, near, user, item, aspect) for aspect in range(NUM_ASPECTS)]
        for user, item in zip(users.tolist(), items.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _saying(m: Mentions, rows: object, said: float) -> Mentions:
    """The same pairs, of which those `rows` mention all aspects or none; frequencies stay."""
    words = m.aspects.toarray()
    words[rows] = said
    changed = Mentions(m.users, m.items, scipy.sparse.csr_matrix(words), NUM_USERS, NUM_ITEMS)
    changed.__dict__["frequency"] = m.frequency
    return changed


def test_scores_without_the_own_review_are_those_of_a_town_without_its_words(mentions, neighbours):
    """They do not depend on what it says, nor do neighbours' shares, which stay as they are."""
    pair = mentions.users[[5]], mentions.items[[5]]
    prior = AspectScorer(mentions, neighbours, WEIGHTS).prior
    found = []
    for said in (0.0, 1.0):
        scorer = AspectScorer(_saying(mentions, 5, said), neighbours, WEIGHTS)
        scorer.__dict__["prior"] = prior
        found.append(scorer.scores(*pair, leave_out_own=True))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    of_all, silent = (
        AspectScorer(each, neighbours, WEIGHTS) for each in (mentions, _saying(mentions, 5, 0.0))
    )
    silent.__dict__["prior"] = of_all.prior
    without = of_all.scores(*pair, leave_out_own=True)
    np.testing.assert_allclose(without, silent.scores(*pair), rtol=1e-5, atol=1e-5)


def test_item_without_reviews_or_neighbours_ranks_as_all_reviews_do(mentions):
    m, kept = mentions, mentions.items != 2
    without = Mentions(m.users[kept], m.items[kept], m.aspects[kept], NUM_USERS, NUM_ITEMS)
    vectors = item_vectors(without, embedding_dim=4)
    assert not vectors[2].any()
    scorer = AspectScorer(without, nearest_items(vectors, 3))
    part = scorer.item_part(np.array([2]))[0]
    assert np.argsort(-part).tolist() == np.argsort(-without.frequency).tolist()


def test_nearest_items_are_those_of_the_largest_cosine_and_never_the_item():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = nearest_items(vectors, 2).toarray()
    expected = np.zeros((4, 4))
    for item, near in ((0, (1, 2)), (1, (0, 2)), (2, (1, 0))):
        for other in near:
            expected[item, other] = math.cos(float(angles[item] - angles[other]))
    np.testing.assert_allclose(found, expected, atol=1e-6)  # item 3 is opposite to all others


def test_fit_finds_the_users_habit_and_prefers_own_to_others(mentions, neighbours):
    held_out = town(split=1)
    found = fit(mentions, held_out, neighbours)
    assert found.scorer.weights.own_weight > 0
    assert found.ndcg > found.ndcg_others
    scores = found.scorer.scores(np.array([0, 1]), np.array([0, 0]))
    rank_of_habit = (scores > scores[:, 5:]).sum(axis=1)
    assert rank_of_habit[0] < rank_of_habit[1]


def test_draws_are_other_users_and_reviewers_of_the_item(mentions):
    reviewed = set(zip(mentions.users.tolist(), mentions.items.tolist(), strict=True))
    others = draw_others(mentions, mentions.users, mentions.items, seed=1)
    assert not (others == mentions.users).any()
    assert not (draw_users(mentions, mentions.users, seed=1) == mentions.users).any()
    assert set(zip(others.tolist(), mentions.items.tolist(), strict=True)) <= reviewed


def test_ndcg_is_1_for_a_perfect_ranking_and_less_for_a_swap():
    mentioned = np.array([[1, 0, 0], [1, 0, 0]], dtype=np.float32)
    scores = np.array([[3, 2, 1], [2, 3, 1]], dtype=np.float32)
    assert ndcg(scores, mentioned) == pytest.approx([1.0, 1 / math.log2(3)])

"""The scorer and its choices against their formulas written out.

The reviews are of items that have aspects of their own; half of the users have a habit.
"""

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from xrec.aspects.choice import AspectChooser
from xrec.aspects.fit import draw_others, draw_users, fit, ndcg
from xrec.aspects.mentions import Mentions, Praise
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.aspects.train import item_vectors, nearest_items

NUM_USERS, NUM_ITEMS, NUM_ASPECTS = 12, 8, 6


def town(split: int = 0) -> Mentions:
    """Each item has two aspects of its own; half of the users always mention the last one."""
    rng = np.random.default_rng([0, split])
    pairs = rng.random((NUM_USERS, NUM_ITEMS)) < 0.5
    users, items = (part.astype(np.int64) for part in pairs.nonzero())
    mentions = np.zeros((len(users), NUM_ASPECTS), dtype=np.float32)
    rows = np.arange(len(users))
    for shift in (0, 1):
        mentions[rows, (items + shift) % 5] = rng.random(len(users)) < 0.7
    mentions[:, 5] = (users % 2 == 0) & (rng.random(len(users)) < 0.9)
    return Mentions(users, items, scipy.sparse.csr_matrix(mentions), NUM_USERS, NUM_ITEMS)


@pytest.fixture(scope="module")
def mentions():
    return town()


@pytest.fixture(scope="module")
def neighbours(mentions):
    return nearest_items(item_vectors(mentions, embedding_dim=4), 3)


@pytest.fixture(scope="module")
def scorer(mentions, neighbours):
    return AspectScorer(mentions, neighbours)


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
    scorer, figures = fit(mentions, held_out, neighbours)
    assert scorer.weights.own_weight > 0
    assert figures["ndcg@10"] > figures["ndcg@10_others"]
    scores = scorer.scores(np.array([0, 1]), np.array([0, 0]))
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


K = 3


@pytest.fixture(scope="module")
def pairs():
    """All pairs, in no order."""
    users, items = np.divmod(np.random.default_rng(1).permutation(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
    return users, items


@pytest.mark.parametrize(("leave_out_own", "k"), [(False, K), (True, K), (False, NUM_ASPECTS + 4)])
def test_choices_are_the_best_scores_of_the_menu_and_evidence_counts_reviews(
    scorer, pairs, leave_out_own, k
):
    found = AspectChooser(scorer).choose(*pairs, k, leave_out_own=leave_out_own)
    scores = scorer.scores(*pairs, leave_out_own=leave_out_own)
    m, words = scorer.mentions, scorer.mentions.aspects.toarray()
    for row, (user, item) in enumerate(zip(*pairs, strict=True)):
        is_own = (m.users == user) & (m.items == item) & leave_out_own
        of_item, of_user = (m.items == item) & ~is_own, (m.users == user) & ~is_own
        menu = np.flatnonzero(words[of_item].any(axis=0))
        best = menu[np.argsort(-scores[row, menu], kind="stable")][:k]
        padding = [0] * (k - len(best))
        assert found.aspects[row].tolist() == [*best, *[-1] * len(padding)]
        assert found.num_item_reviews[row] == of_item.sum()
        assert found.num_user_reviews[row] == of_user.sum()
        for counted, reviews in ((found.item_reviews, of_item), (found.user_reviews, of_user)):
            assert counted[row].tolist() == [*words[reviews][:, best].sum(axis=0), *padding]


def test_choices_of_a_pair_are_the_same_alone_and_among_others():
    # Menus of 30 and of 400 aspects, most of which score the same for one of whom nothing is known.
    rng = np.random.default_rng(0)
    num_items, num_aspects = 40, 400
    users = np.repeat(np.arange(60), 8)
    items = np.concatenate([rng.choice(num_items, 8, replace=False) for _ in range(60)])
    words = np.zeros((len(users), num_aspects), dtype=np.float32)
    for row, item in zip(words, items, strict=True):
        row[rng.choice(num_aspects, 60 if item < 5 else 4, replace=False)] = 1
    mentions = Mentions(users, items, scipy.sparse.csr_matrix(words), 60, num_items)
    near = scipy.sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    chooser, nobody = AspectChooser(AspectScorer(mentions, near)), np.full(num_items, -1)
    among = chooser.choose(nobody, np.arange(num_items), K).aspects.tolist()
    alone = [
        chooser.choose(nobody[:1], np.array([item]), K).aspects[0] for item in range(num_items)
    ]
    assert among == np.stack(alone).tolist()


def test_aspects_in_too_few_reviews_are_not_chosen(scorer):
    users, items = np.zeros(NUM_ITEMS, dtype=np.int64), np.arange(NUM_ITEMS)
    found = AspectChooser(scorer, min_item_reviews=2).choose(users, items, K)
    assert found.item_reviews[found.aspects >= 0].min() == 2


@pytest.mark.parametrize("leave_out_own", [False, True])
def test_aspects_that_are_not_praised_more_than_blamed_are_not_chosen(scorer, pairs, leave_out_own):
    m, words = scorer.mentions, scorer.mentions.aspects.toarray()
    # What a review mentions it praises, blames, or only speaks of.
    verdicts = np.random.default_rng(2).choice([1, -1, 0], words.shape, p=[0.4, 0.3, 0.3]) * words
    low_rated = np.random.default_rng(3).integers(-1, 2, (m.num_items, m.num_aspects))
    praise = Praise.of(
        m.items, scipy.sparse.csr_matrix(verdicts), scipy.sparse.csr_matrix(low_rated * 1.0)
    )
    found = AspectChooser(scorer, praise=praise).choose(
        *pairs, NUM_ASPECTS, leave_out_own=leave_out_own
    )
    num_left_out = 0
    for row, (user, item) in enumerate(zip(*pairs, strict=True)):
        reviews = (m.items == item) & ~((m.users == user) & leave_out_own)
        is_praised = verdicts[reviews].sum(axis=0) + low_rated[item] > 0
        menu = words[reviews].any(axis=0)
        chosen = found.aspects[row][found.aspects[row] >= 0].tolist()
        assert sorted(chosen) == np.flatnonzero(menu & is_praised).tolist()
        num_left_out += (menu & ~is_praised).sum()
    assert num_left_out > len(pairs[0]) // 2  # it would be seen

"""Choices against scores of all aspects, and evidence against counts of reviews."""

import numpy as np
import pytest
import scipy.sparse

from tests.xrec.aspects.conftest import NUM_ASPECTS, NUM_ITEMS, NUM_USERS
from xrec.aspects.choice import AspectChooser
from xrec.aspects.mentions import Mentions, Praise
from xrec.aspects.scorer import AspectScorer

K = 3


@pytest.fixture(scope="module")
def pairs():
    """All pairs, in no order."""
    users, items = np.divmod(np.random.default_rng(1).permutation(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
    return users, items


@pytest.mark.parametrize(("leave_out_own", "k"), [(False, K), (True, K), (False, NUM_ASPECTS + 4)])
def test_choices_are_the_best_scores_of_the_menu(scorer, pairs, leave_out_own, k):
    found = AspectChooser(scorer).choose(*pairs, k, leave_out_own=leave_out_own)
    scores = scorer.scores(*pairs, leave_out_own=leave_out_own)
    words = scorer.mentions.aspects.toarray()
    for row, (user, item) in enumerate(zip(*pairs, strict=True)):
        reviews = scorer.mentions.items == item
        if leave_out_own:
            reviews &= scorer.mentions.users != user
        menu = np.flatnonzero(words[reviews].any(axis=0))
        expected = menu[np.argsort(-scores[row, menu], kind="stable")][:k]
        assert found.aspects[row].tolist() == [*expected, *[-1] * (k - len(expected))]


@pytest.mark.parametrize("leave_out_own", [False, True])
def test_evidence_counts_the_reviews_that_mention_each_aspect(scorer, pairs, leave_out_own):
    found = AspectChooser(scorer).choose(*pairs, K, leave_out_own=leave_out_own)
    m, words = scorer.mentions, scorer.mentions.aspects.toarray()
    for row, (user, item) in enumerate(zip(*pairs, strict=True)):
        is_own = (m.users == user) & (m.items == item) & leave_out_own
        of_item, of_user = (m.items == item) & ~is_own, (m.users == user) & ~is_own
        assert found.num_item_reviews[row] == of_item.sum()
        assert found.num_user_reviews[row] == of_user.sum()
        for place, aspect in enumerate(found.aspects[row]):
            counted = (of_item, of_user) if aspect >= 0 else ()
            expected = [int(words[reviews, aspect].sum()) for reviews in counted] or [0, 0]
            assert [found.item_reviews[row, place], found.user_reviews[row, place]] == expected


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

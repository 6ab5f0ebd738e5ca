"""Choices against their formula, written out in loops over the reviews of a small catalog."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.town import (
    Said,
    dataset_in,
    dataset_of,
    prepared_town,
    town_of_profiles,
    with_aspects,
)
from xrec import schemas
from xrec.aspects import AspectChooser, check_prompt, chooser_for
from xrec.config import PromptConfig
from xrec.data import Dataset, Menus, Opinions
from xrec.errors import ConfigError, DataError

NUM_USERS, NUM_ITEMS, NUM_ASPECTS, K = 12, 8, 6, 3
M, V, L, LEAST = 5, 0.15, 10, 0.05
PAIRS = np.divmod(np.random.default_rng(1).permutation(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
"""All pairs, in no order."""


def said_in_town() -> tuple[list[tuple[int, int]], list[Said]]:
    """Return who reviewed what, and what these reviews say; half of the users have a habit."""
    rng = np.random.default_rng(0)
    reviews = [(u, i) for u in range(NUM_USERS) for i in range(NUM_ITEMS - 1) if rng.random() < 0.5]
    said: list[Said] = []
    for user, item in reviews:
        mentions = rng.random(NUM_ASPECTS) < 0.3
        mentions[5] = user % 2 == 0
        sentiments = rng.choice(["positive", "neutral", "negative"], NUM_ASPECTS, p=[0.6, 0.2, 0.2])
        said += [(user, item, int(a), str(sentiments[a])) for a in np.flatnonzero(mentions)]
    return reviews, said


REVIEWS, SAID = said_in_town()


@pytest.fixture(scope="module")
def dataset():
    """Reviews of all items but the last; low-rated ones blame an aspect of some items, and another
    in what some users write."""
    made = dataset_of(
        NUM_USERS,
        NUM_ITEMS,
        interactions=[(*pair, "train") for pair in REVIEWS],
        aspects=[f"aspect {number}" for number in range(NUM_ASPECTS)],
        named=[(0, 7, 0)],  # it is held out, and counts nowhere
        trained=SAID,
    )
    blamed = [(item, 2, 2, 0, 2) for item in (0, 3, 5)]
    rows = [dict(zip(schemas.LOW_RATED_ASPECTS.names, row, strict=True)) for row in blamed]
    complaints = [(user, 4, 3, 0, 3) for user in range(0, NUM_USERS, 3)]
    by_users = [dict(zip(schemas.USER_ASPECTS.names, row, strict=True)) for row in complaints]
    return replace(
        made,
        low_rated_aspects=pa.Table.from_pylist(rows, schemas.LOW_RATED_ASPECTS),
        low_rated_user_aspects=pa.Table.from_pylist(by_users, schemas.USER_ASPECTS),
    )


Chosen = tuple[list[tuple[int, int, int]], tuple[int, int]]


def expected(dataset: Dataset, user: int, item: int, k: int, *, leave_out_own: bool) -> Chosen:
    """Return the chosen aspects with their counts, and the numbers of reviews."""
    own = (user, item) if leave_out_own else None
    others = [each for each in REVIEWS if each != own]
    assert dataset.low_rated_aspects is not None
    low_rated = [row for row in dataset.low_rated_aspects.to_pylist() if row["item_index"] == item]
    num_item, num_user = sum(i == item for _, i in others), sum(u == user for u, _ in others)
    menu = []
    for aspect in range(NUM_ASPECTS):
        mentions = [s for s in SAID if s[2] == aspect]
        kept = [s for s in mentions if s[3] != "negative"]
        p = (len(kept) + 0.5) / (len(REVIEWS) + 1)
        verdicts = [s[3] for s in mentions if s[1] == item and s[:2] != own]
        of_user = sum(s[0] == user and s[:2] != own for s in kept)
        count = sum(each != "negative" for each in verdicts)
        margin = verdicts.count("positive") - verdicts.count("negative")
        margin -= sum(row["num_negative"] for row in low_rated if row["aspect_index"] == aspect)
        own_verdicts = [s[3] for s in mentions if s[0] == user and s[:2] != own]
        own_margin = own_verdicts.count("positive") - own_verdicts.count("negative")
        own_margin -= 3 * (aspect == 4 and user % 3 == 0 and user < NUM_USERS)
        if count >= max(1, LEAST * num_item) and margin > 0 and own_margin >= 0:
            score = math.log(count + M * p) + V * math.log1p(of_user / (L * p))
            menu.append((-score, aspect, count, of_user))
    return [(a, c, u) for _, a, c, u in sorted(menu)[:k]], (num_item, num_user)


@pytest.mark.parametrize("leave_out_own", [False, True])
@pytest.mark.parametrize("k", [K, NUM_ASPECTS + 4])
def test_choices_are_the_best_of_the_menu_by_the_formula_with_their_counts(
    dataset, k, leave_out_own
):
    found = AspectChooser(dataset).choose(*PAIRS, k, leave_out_own=leave_out_own)
    columns = (found.aspects, found.item_reviews, found.user_reviews)
    num_short = 0
    for row, (user, item) in enumerate(zip(*map(np.ndarray.tolist, PAIRS), strict=True)):
        chosen, totals = expected(dataset, user, item, k, leave_out_own=leave_out_own)
        rows = list(zip(*(column[row].tolist() for column in columns), strict=True))
        padding = [(-1, 0, 0)] * (k - len(chosen))
        assert rows == [*chosen, *padding]
        assert (found.num_item_reviews[row], found.num_user_reviews[row]) == totals
        num_short += not chosen
    assert num_short >= NUM_USERS  # the last item has no review


def test_unknown_user_gets_what_reviews_say_of_the_item(dataset):
    nobody, items = np.full(NUM_ITEMS, -1), np.arange(NUM_ITEMS)
    found = AspectChooser(dataset).choose(nobody, items, NUM_ASPECTS)
    for item in items.tolist():
        chosen, (num_item, _) = expected(dataset, NUM_USERS, item, NUM_ASPECTS, leave_out_own=False)
        assert [each for each in found.aspects[item].tolist() if each >= 0] == [
            aspect for aspect, *_ in chosen
        ]
        assert (found.num_item_reviews[item], found.num_user_reviews[item]) == (num_item, 0)
    assert not found.user_reviews.any()


def test_aspect_in_fewer_than_a_twentieth_of_the_reviews_is_not_chosen():
    said = [*((user, 0, 0) for user in range(41)), (0, 0, 1), (1, 0, 1)]
    said += [(user, 0, 2) for user in range(3)]
    visits = [(user, 0, "train") for user in range(41)]
    made = dataset_of(41, 1, interactions=visits, aspects=["a", "b", "c"], trained=said)
    found = AspectChooser(made).choose(np.array([3]), np.array([0]), 3)
    assert found.aspects.tolist() == [[0, 2, -1]]  # of 41 reviews 3 are enough, and 2 are not


def test_choices_of_a_pair_are_the_same_alone_and_among_others():
    """Most of the up to 150 aspects of a menu have the same score for an unknown user."""
    rng, num_items, num_aspects = np.random.default_rng(0), 12, 150
    visits = [(user, int(i)) for user in range(30) for i in rng.choice(num_items, 8, replace=False)]
    said = [
        (user, item, int(aspect))
        for user, item in visits
        for aspect in rng.choice(num_aspects, 20 if item < 5 else 4, replace=False)
    ]
    names = [f"a{number}" for number in range(num_aspects)]
    edges = [(*pair, "train") for pair in sorted(visits)]
    made = dataset_of(30, num_items, interactions=edges, aspects=names, trained=said)
    chooser = AspectChooser(made, pairs_per_block=7)
    nobody = np.full(num_items, -1)
    among = chooser.choose(nobody, np.arange(num_items), K).aspects.tolist()
    alone = [chooser.choose(nobody[:1], np.array([i]), K).aspects[0] for i in range(num_items)]
    assert among == np.stack(alone).tolist()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The sample's dataset, whose aspects the tests replace."""
    return prepared_town(tmp_path_factory.mktemp("plain"))


def test_counts_in_files_choose_the_same_as_counts_in_memory(plain, tmp_path):
    dataset = dataset_in(with_aspects(plain, tmp_path))
    AspectChooser(dataset)  # writes them
    kept = AspectChooser(dataset)
    in_memory = AspectChooser(replace(dataset, on_disk=None))
    pairs = dataset.interaction_edges("train")
    for leave_out_own in (False, True):
        one, other = (
            vars(each.choose(*pairs, K, leave_out_own=leave_out_own)) for each in (kept, in_memory)
        )
        assert {name: values.tolist() for name, values in one.items()} == {
            name: values.tolist() for name, values in other.items()
        }
    said = dataset.explanation_aspects.select(["item_index", "aspect_index"]).to_pylist()
    unread = replace(dataset, on_disk=None)
    for read, made in ((Menus(dataset), Menus(unread)), (Opinions(dataset), Opinions(unread))):
        places = {tuple(row.values())[: 1 if isinstance(read, Menus) else 2] for row in said}
        assert [read.of(*place) for place in places] == [made.of(*place) for place in places]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    return town_of_profiles(tmp_path_factory.mktemp("profiles"))


@pytest.mark.parametrize("leave_out_own", [False, True])
def test_profile_counts_as_the_only_review_of_its_item(profiles, leave_out_own):
    dataset, menus = profiles, dict[int, set[int]]()
    visits = [tuple(edge) for edge in dataset.interaction_edges("train").T.tolist()]
    for row in dataset.item_aspects.to_pylist():
        menus.setdefault(row["item_index"], set()).add(row["aspect_index"])
    pairs = [*visits[:40], *((user, user % dataset.num_items) for user in range(40))]
    users, items = np.array(pairs).T
    num_aspects = dataset.aspects.num_rows
    found = AspectChooser(dataset).choose(users, items, num_aspects, leave_out_own=leave_out_own)
    assert set(found.num_item_reviews.tolist()) == {1}
    for row, (user, item) in enumerate(pairs):
        others = [i for u, i in visits if u == user and not (leave_out_own and i == item)]
        chosen = [aspect for aspect in found.aspects[row].tolist() if aspect >= 0]
        assert set(chosen) == menus.get(item, set())
        assert found.num_user_reviews[row] == len(others)
        for rank, aspect in enumerate(chosen):
            assert found.item_reviews[row, rank] == 1
            habit = sum(aspect in menus.get(each, ()) for each in others)
            assert found.user_reviews[row, rank] == habit


def test_prompt_that_does_not_fit_the_dataset_is_refused(plain, profiles):
    counting = PromptConfig(aspects=2)
    with raises(ConfigError, "no_reviews_to_count", key="prompt.aspect"):
        check_prompt(counting, profiles.manifest)
    check_prompt(PromptConfig(aspects=2, aspect="{aspect}"), profiles.manifest)
    check_prompt(PromptConfig(), profiles.manifest)
    none = replace(plain, aspects=None)
    assert chooser_for(PromptConfig(), none) is None
    with raises(DataError, "no_aspects"):
        chooser_for(counting, none)
    with raises(DataError, "index_out_of_range", key="item_aspects.aspect_index", saw=3):
        AspectChooser(dataset_of(aspects=["a"], trained=[(0, 0, 3)]))

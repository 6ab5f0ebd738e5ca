"""Graphs without a fold of the explained pairs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.world.town import dataset_of, explained
from xrec.data import Dataset, visited_aspects
from xrec.graph.leave_out import fold_numbers, without_fold
from xrec.storage import Manifest

NUM_FOLDS = 3
TRAIN = [(user, item) for user in range(4) for item in range(5)]
TEST = [(user, 5) for user in range(4)]
VISITED = [*TRAIN, *((4, item) for item in range(5))]  # the last ones are not explained


def dataset(aspects_from: str) -> Dataset:
    """Every review mentions the aspect that has its item's number, and aspect 6."""
    trained, test = (
        [(*pair, n) for pair in pairs for n in (pair[1], 6)] for pairs in (VISITED, TEST)
    )
    texts = [explained([(*pair, "x") for pair in TRAIN])]
    texts.append(explained([(*pair, "x") for pair in TEST], "test"))
    visits = [*((*pair, "train") for pair in VISITED), *((*pair, "test") for pair in TEST)]
    town = dataset_of(
        5,
        6,
        explanations=pa.concat_tables(texts),
        interactions=visits,
        aspects="0123456",
        trained=trained,
        named=test,
    )
    town = replace(town, manifest=Manifest.model_construct(metrics={"aspects_from": aspects_from}))
    if aspects_from == "reviews":
        return town
    return replace(town, user_aspects=visited_aspects(town.interactions, town.item_aspects))


def trained(given: Dataset) -> set[tuple[int, int]]:
    return set(map(tuple, given.interaction_edges("train").T.tolist()))


def counts(given: Dataset, side: str) -> dict[tuple[int, int], int]:
    rows = getattr(given, f"{side}_aspects").to_pylist()
    return {(row[f"{side}_index"], row["aspect_index"]): row["num_reviews"] for row in rows}


@pytest.mark.parametrize("aspects_from", ["reviews", "profiles"])
def test_without_fold_each_explained_training_pair_is_missing_from_one_fold(aspects_from):
    whole = dataset(aspects_from)
    folds = [without_fold(whole, fold, NUM_FOLDS) for fold in range(NUM_FOLDS)]
    gone = [trained(whole) - trained(fold) for fold in folds]
    assert sorted(pair for pairs in gone for pair in pairs) == TRAIN
    for fold in folds:
        assert fold.interaction_edges("test").tolist() == whole.interaction_edges("test").tolist()
        assert fold.explanations == whole.explanations
        num_visits = Counter(user for user, _ in trained(fold))
        of_all = {(user, 6): count for user, count in num_visits.items()}
        assert counts(fold, "user") == dict.fromkeys(trained(fold), 1) | of_all
        if aspects_from == "profiles":
            assert fold.item_aspects == whole.item_aspects  # no review wrote these


def test_without_fold_items_have_no_count_of_a_review_that_is_left_out():
    fold = without_fold(dataset("reviews"), 0, NUM_FOLDS)
    num_reviews = Counter(item for _, item in trained(fold))
    found = counts(fold, "item")
    assert {item: found[item, 6] for item in num_reviews} == num_reviews


def test_fold_numbers_spread_the_pairs_of_each_user():
    users = np.random.default_rng(0).integers(50, size=500)
    folds = fold_numbers(users, 4)
    for user in range(50):
        found = np.bincount(folds[users == user], minlength=4)
        assert found.max() - found.min() <= 1
    assert np.bincount(folds, minlength=4).min() > 100
    assert len(fold_numbers(users[:0], 4)) == 0

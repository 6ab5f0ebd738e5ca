"""Graphs without a fold of the explained pairs."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from xrec import schemas
from xrec.data import Dataset, aspect_counts, edges_of, visited_aspects
from xrec.graph.leave_out import fold_numbers, without_fold
from xrec.storage import Manifest

NUM_FOLDS = 3
TRAIN = [(user, item) for user in range(4) for item in range(5)]
TEST = [(user, 5) for user in range(4)]
UNEXPLAINED = [(4, item) for item in range(5)]


def table(schema: pa.Schema, pairs: dict[str, list[tuple[int, int]]], **columns: str) -> pa.Table:
    rows = [
        {"user_index": user, "item_index": item, "split": split, **columns}
        for split, of_split in pairs.items()
        for user, item in of_split
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def dataset(aspects_from: str) -> Dataset:
    """Every review speaks of the aspect that has its item's number, and of aspect 6."""
    pairs = {"train": [*TRAIN, *UNEXPLAINED], "test": TEST}
    named = table(schemas.EXPLANATION_ASPECTS, pairs, opinion="", sentiment="positive")
    named = pa.concat_tables(
        named.set_column(2, schemas.EXPLANATION_ASPECTS.field("aspect_index"), numbers)
        for numbers in (named["item_index"], pa.array([6] * named.num_rows, pa.int32()))
    )
    of_training = named.filter(pc.equal(named["split"], "train"))
    interactions = table(schemas.INTERACTIONS, pairs)
    menus = aspect_counts(of_training, "item")
    of_users = visited_aspects(interactions, menus)
    if aspects_from == "reviews":
        of_users = aspect_counts(of_training, "user")
    return Dataset(
        Manifest.model_construct(metrics={"aspects_from": aspects_from}),
        users=pa.table({"user_id": list("abcde")}),
        items=pa.table({"item_id": list("uvwxyz")}),
        interactions=interactions,
        explanations=table(schemas.EXPLANATIONS, {"train": TRAIN, "test": TEST}, explanation="x"),
        aspects=pa.table({"aspect": list("0123456")}),
        item_aspects=menus,
        user_aspects=of_users,
        explanation_aspects=named,
    )


def trained(given: Dataset) -> set[tuple[int, int]]:
    return set(map(tuple, given.interaction_edges("train").T.tolist()))


@pytest.mark.parametrize("aspects_from", ["reviews", "profiles"])
def test_without_fold_each_explained_training_pair_is_out_of_one_fold_alone(aspects_from):
    whole = dataset(aspects_from)
    folds = [without_fold(whole, fold, NUM_FOLDS) for fold in range(NUM_FOLDS)]
    gone = [trained(whole) - trained(fold) for fold in folds]
    assert sorted(pair for pairs in gone for pair in pairs) == TRAIN
    for fold, pairs in zip(folds, gone, strict=True):
        assert fold.interaction_edges("test").tolist() == whole.interaction_edges("test").tolist()
        assert fold.explanations == whole.explanations
        counts = {
            (row["user_index"], row["aspect_index"]): row["num_reviews"]
            for row in fold.user_aspects.to_pylist()
        }
        expected = dict.fromkeys(trained(fold), 1)
        if aspects_from == "profiles":
            assert fold.item_aspects == whole.item_aspects  # no review wrote these
        of_user = {user: sum(pair[0] == user for pair in trained(fold)) for user in range(5)}
        assert counts == expected | {(user, 6): count for user, count in of_user.items() if count}
        assert not set(counts) & pairs


def test_without_fold_items_have_no_count_of_a_review_that_is_left_out():
    whole = dataset("reviews")
    fold = without_fold(whole, 0, NUM_FOLDS)
    counts = {
        (row["item_index"], row["aspect_index"]): row["num_reviews"]
        for row in fold.item_aspects.to_pylist()
    }
    left = [pair[1] for pair in trained(fold)]
    assert {item: counts[item, 6] for item in set(left)} == {
        item: left.count(item) for item in set(left)
    }


def test_fold_numbers_spread_the_pairs_of_each_user():
    users = np.random.default_rng(0).integers(50, size=500)
    folds = fold_numbers(users, 4)
    for user in range(50):
        counts = np.bincount(folds[users == user], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(folds, minlength=4).min() > 100
    assert len(fold_numbers(users[:0], 4)) == 0


def test_without_fold_leaves_a_dataset_without_aspects_as_it_is_but_for_its_pairs():
    none = dict.fromkeys(("aspects", "item_aspects", "user_aspects", "explanation_aspects"))
    bare = replace(dataset("reviews"), **none)
    fold = without_fold(bare, 1, NUM_FOLDS)
    assert fold.user_aspects is None
    assert edges_of(fold.interactions).shape[1] < edges_of(bare.interactions).shape[1]

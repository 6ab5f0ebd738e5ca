"""The leak meter finds what was made from the reference, and nothing where it was left out."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from xrec import schemas
from xrec.data import Dataset
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.leave_out import TrainingVectors
from xrec.storage import Manifest
from xrec.train.leak import Fit, measure_leak

NUM_USERS, NUM_ITEMS, D = 80, 40, 32
PAIRS = sorted((user, (user + step) % NUM_ITEMS) for user in range(NUM_USERS) for step in range(4))


def split_of(place: int) -> str:
    return "test" if place % 4 == 3 else "train"


def word(user: int, item: int) -> str:
    """A word that only the review of the pair has."""
    return f"word{user:03d}x{item:03d}"


@pytest.fixture
def leaking():
    """Profiles hold the words of all training reviews."""
    training = [pair for place, pair in enumerate(PAIRS) if split_of(place) == "train"]
    explanations = [
        {
            "user_index": user,
            "item_index": item,
            "explanation": f"A {word(user, item)}",
            "split": split_of(place),
        }
        for place, (user, item) in enumerate(PAIRS)
    ]
    users = [" ".join(word(*pair) for pair in training if pair[0] == u) for u in range(NUM_USERS)]
    items = [" ".join(word(*pair) for pair in training if pair[1] == i) for i in range(NUM_ITEMS)]
    return Dataset(
        Manifest.model_construct(metrics={}),
        users=pa.table({"profile": users}),
        items=pa.table({"profile": items}),
        interactions=pa.table({}),
        explanations=pa.Table.from_pylist(explanations, schemas.EXPLANATIONS),
    )


def without_own(dataset: Dataset) -> Dataset:
    """The same with profiles of training pairs that lack the pair's word."""
    pairs = dataset.explained_pairs("train").select(["user_index", "item_index"]).to_pylist()
    rows = [
        {
            **pair,
            "user_profile": dataset.users["profile"][user].as_py().replace(word(user, item), ""),
            "item_profile": dataset.items["profile"][item].as_py().replace(word(user, item), ""),
        }
        for pair in pairs
        for user, item in [pair.values()]
    ]
    profiles = pa.Table.from_pylist(rows, schemas.TRAINING_PROFILES)
    return replace(dataset, training_profiles=profiles)


@pytest.fixture
def graph():
    """Vectors that know the training pairs: a user's is the sum of the items'."""
    items = torch.randn(NUM_ITEMS, D, generator=torch.Generator().manual_seed(0))
    users = torch.zeros(NUM_USERS, D)
    for place, (user, item) in enumerate(PAIRS):
        if split_of(place) == "train":
            users[user] += items[item]
    return GraphEmbeddings(users, items, Manifest.model_construct())


def leaks(found: dict[str, Fit]) -> list[str]:
    return [name for name, fit in found.items() if fit.is_leak]


def test_measure_leak_finds_each_input_that_holds_its_target(leaking, graph):
    found = measure_leak(leaking, graph, None, leave_out_own=False)
    assert leaks(found) == ["user profile", "item profile", "vectors"]
    assert found["user profile"].train == found["item profile"].train == 1
    assert found["user profile"].held_out == found["user profile"].train_other == 0
    assert "learns to copy" in found["vectors"].warning("vectors")


def test_measure_leak_finds_nothing_where_the_own_review_is_left_out(leaking, graph):
    num_pairs = leaking.explained_pairs("train").num_rows
    drawn = torch.randn(2, num_pairs, D, generator=torch.Generator().manual_seed(1))
    vectors = TrainingVectors(*drawn)
    found = measure_leak(without_own(leaking), graph, vectors, leave_out_own=True)
    assert leaks(found) == []
    assert found["user profile"].train == 0
    # What is there is not shown if nothing is to be left out.
    assert "user profile" in leaks(
        measure_leak(without_own(leaking), graph, vectors, leave_out_own=False)
    )


def test_measure_leak_without_held_out_pairs_measures_nothing(leaking, graph):
    alone = replace(leaking, explanations=leaking.explained_pairs("train"))
    assert measure_leak(alone, graph, None, leave_out_own=False) == {}

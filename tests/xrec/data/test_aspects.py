"""What reviews say of items: the tables of aspects, menus, and the opinions that say most."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data import Dataset
from xrec.data.aspects import NamedAspects, aspect_tables, profile_aspect_tables
from xrec.data.evidence import Menus, Opinions
from xrec.storage import Manifest

Said = tuple[str, ...]
"""User, item, aspect and opinion; then sentiment (positive) and split (train)."""
USERS, ITEMS = [*(f"u{n}" for n in range(60)), "x", "y"], ["stand", "horn", "drum"]
SAID = [
    ("u0", "stand", "build", "sturdy"),
    ("u1", "stand", "build", "", "negative"),
    ("u2", "stand", "build", "sturdy"),
    ("u0", "stand", "price", "", "negative"),
    ("u0", "horn", "tone", "warm"),
    ("u1", "horn", "price", "", "neutral"),
    ("u3", "horn", "tone", "", "negative", "test"),
    ("u3", "drum", "build", "rugged", "positive", "validation"),
]


def _named(said: Sequence[Said]) -> pa.Table:
    names = ("aspect", "opinion", "sentiment", "split")
    rows = [(*row, *("", "positive", "train")[len(row) - 3 :]) for row in said]
    indices = {
        "user_index": pa.array([USERS.index(row[0]) for row in rows], pa.int32()),
        "item_index": pa.array([ITEMS.index(row[1]) for row in rows], pa.int32()),
    }
    texts = {name: [row[place] for row in rows] for place, name in enumerate(names, start=2)}
    return pa.table({**indices, **texts})


def dataset_of(said: Sequence[Said], aspects_from: str = "reviews") -> Dataset:
    users, items = pa.table({"user_id": USERS}), pa.table({"item_id": ITEMS})
    return Dataset(
        Manifest.model_construct(metrics={"aspects_from": aspects_from}),
        users,
        items,
        interactions=pa.table({}),
        explanations=pa.table({}),
        **aspect_tables(_named(said)),
    )


def _values(table: pa.Table | None) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_aspect_tables_count_training_reviews_alone():
    dataset = dataset_of(SAID)
    for name in ("aspects", "item_aspects", "user_aspects", "explanation_aspects"):
        assert getattr(dataset, name).schema.equals(getattr(schemas, name.upper()))
    assert _values(dataset.aspects) == [
        (0, "build", 3, 2, 1),
        (1, "price", 2, 0, 1),
        (2, "tone", 1, 1, 0),
    ]
    assert _values(dataset.item_aspects) == [
        (0, 0, 3, 2, 1),
        (0, 1, 1, 0, 1),
        (1, 1, 1, 0, 0),
        (1, 2, 1, 1, 0),
    ]
    assert [row[:3] for row in _values(dataset.user_aspects)] == [
        (0, 0, 1),
        (0, 1, 1),
        (0, 2, 1),
        (1, 0, 1),
        (1, 1, 1),
        (2, 0, 1),
    ]
    held_out = [row[1:3] for row in _values(dataset.explanation_aspects) if "train" not in row]
    assert held_out == [(1, 2), (2, 0)]


def test_menus_have_the_aspects_that_training_reviews_do_not_blame():
    menus = Menus(dataset_of(SAID))
    assert menus.of(0) == {"build"}
    assert menus.of(1) == {"price", "tone"}
    assert menus.of(2) == menus.of(99) == frozenset()  # one of them came later
    without = Menus(replace(dataset_of(SAID), aspects=None, item_aspects=None))
    assert (without.of(0), without.names) == (frozenset(), [])


@pytest.mark.parametrize(
    ("low_rated", "menu"),
    [
        ([("x", "horn", "tone", "", "positive")], {"price", "tone"}),
        ([("x", "horn", "tone", "", "negative")], {"price"}),
        ([("x", "stand", "tone", "", "negative")], {"price", "tone"}),
        ([("x", "horn", "smell", "", "negative")], {"price", "tone"}),
        ([("x", "horn", "price", "", "negative")], {"tone"}),
    ],
)
def test_menus_count_what_low_rated_reviews_praise_and_blame(low_rated, menu):
    (row,) = low_rated
    dataset = dataset_of([*SAID, (*row, "low_rated")])
    assert dataset.aspects.equals(dataset_of(SAID).aspects)
    assert Menus(dataset).of(1) == menu


def test_complaints_are_what_more_of_a_users_reviews_blame_than_praise():
    menus = Menus(dataset_of(SAID))
    assert [menus.complaints(user) for user in range(4)] == [{"price"}, {"build"}, set(), set()]
    low_rated = [("u0", "drum", "tone", "", "negative", "low_rated")]
    assert Menus(dataset_of([*SAID, *low_rated])).complaints(0) == {"price"}  # tone is even
    other = ("u0", "stand", "tone", "", "negative", "low_rated")
    assert Menus(dataset_of([*SAID, *low_rated, other])).complaints(0) == {"price", "tone"}
    praise = ("u0", "drum", "price", "", "positive", "low_rated")
    assert Menus(dataset_of([*SAID, praise])).complaints(0) == set()


def _opinion(said: Sequence[Said], aspect: str = "build", without: int | None = None) -> str:
    dataset = dataset_of(said)
    return Opinions(dataset).of(0, dataset.aspects["aspect"].index(aspect).as_py(), without)


def test_opinion_is_what_most_reviews_of_the_item_say_and_few_of_others():
    said = [("u0", "stand", "build", "sturdy"), ("u1", "stand", "build", "sturdy")]
    rugged = ("u2", "stand", "build", "rugged")
    elsewhere = [(user, "horn", "build", "rugged") for user in USERS[3:9]]
    assert _opinion([*said, rugged, *elsewhere]) == "sturdy"
    tank = ("u2", "stand", "build", "built like a tank")
    common = [(user, "horn", "build", "sturdy") for user in USERS[3:53]]
    assert _opinion([*said, tank, *common]) == "built like a tank"


def test_opinion_without_a_user_is_as_if_that_review_had_not_been_written():
    said = [("u0", "stand", "build", "rugged"), ("u1", "stand", "build", "sturdy")]
    assert (_opinion(said, without=0), _opinion(said, without=1)) == ("sturdy", "rugged")
    assert _opinion(said[:1], without=0) == ""


@pytest.mark.parametrize(
    ("aspect", "opinion", "expected"),
    [
        ("build", "great", ""),
        ("price", "really good price", ""),
        ("ease of use", "easy to use", ""),
        ("build", "sounds good", ""),
        ("ease of use", "easy to install", "easy to install"),
        ("price", "low  price", "low price"),
        ("build", "as I told my neighbour last year", ""),
        ("build", "", ""),
    ],
)
def test_opinion_is_short_and_says_more_than_that_the_aspect_is_good(aspect, opinion, expected):
    assert _opinion([("u0", "stand", aspect, opinion)], aspect) == expected


@pytest.mark.parametrize("rest", [("positive", "test"), ("positive", "validation"), ("negative",)])
def test_opinion_comes_from_praise_in_training_reviews_only(rest):
    known = ("u1", "horn", "build")
    assert _opinion([known, ("u0", "stand", "build", "rugged", *rest)]) == ""
    of_profiles = dataset_of([("u0", "stand", "build", "rugged")], "profiles")
    assert Opinions(of_profiles).of(0, 0) == ""


NAMES = ("music", "oven", "pasta", "view")  # no profile has an oven but within a longer name
PROFILES = ["view music", "pasta", "music pasta view", ""]
TRAINED = [(0, 0), (0, 1), (1, 2), (2, 0), (2, 2), (2, 3)]
INTERACTIONS = [*((*pair, "train") for pair in TRAINED), (0, 2, "test"), (1, 0, "validation")]
EXPLANATIONS = [
    (0, 1, "pasta", "train"),
    (0, 2, "view music view", "test"),
    (1, 3, "nothing", "validation"),
]


def _find(profiles: Sequence[str], explanations: Sequence[str]) -> NamedAspects:
    named = [
        [[NAMES.index(word) for word in text.split() if word in NAMES] for text in texts]
        for texts in (profiles, explanations)
    ]
    return NamedAspects(NAMES, *named)


def _tables(
    interactions: Sequence[tuple[int, int, str]] = INTERACTIONS,
    explanations: Sequence[tuple[int, int, str, str]] = EXPLANATIONS,
) -> dict[str, pa.Table]:
    items = [(str(number), number, "", profile) for number, profile in enumerate(PROFILES)]
    rows = {"items": items, "interactions": interactions, "explanations": explanations}
    tables = {}
    for name, of_name in rows.items():
        schema = getattr(schemas, name.upper())
        columns = [list(column) for column in zip(*of_name, strict=True)]
        tables[name] = pa.table(columns, schema.names).cast(schema)
    return profile_aspect_tables(tables, _find)


def test_profile_aspects_are_those_of_items_of_users_training_items_and_of_explanations():
    tables = _tables()
    menus = [(0, 0), (0, 3), (1, 2), (2, 0), (2, 2), (2, 3)]
    assert _values(tables["item_aspects"]) == [(*each, 1, 1, 0) for each in menus]
    aspects = [(0, "music", 2), (1, "oven", 0), (2, "pasta", 2), (3, "view", 2)]
    assert _values(tables["aspects"]) == [(*each, each[2], 0) for each in aspects]
    of_users = Counter((user, name) for user, item in TRAINED for name in PROFILES[item].split())
    rows = [(user, NAMES[name], count) for user, name, count, *_ in _values(tables["user_aspects"])]
    assert rows == sorted((*each, count) for each, count in of_users.items())
    keys = ("user_index", "item_index", "aspect_index", "split", "sentiment")
    assert _values(tables["explanation_aspects"].select(keys)) == [
        (0, 1, 2, "train", "positive"),
        (0, 2, 3, "test", "positive"),  # named first
        (0, 2, 0, "test", "positive"),
    ]


@pytest.mark.parametrize("name", ["aspects", "item_aspects", "user_aspects"])
def test_nothing_held_out_is_counted(name):
    without = _tables(
        [row for row in INTERACTIONS if row[2] == "train"],
        [(user, item, "other words", split) for user, item, _, split in EXPLANATIONS],
    )
    assert without[name].equals(_tables()[name])

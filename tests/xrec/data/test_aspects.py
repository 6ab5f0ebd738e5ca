"""What reviews say about items: tables of aspects, menus, and the most telling opinions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.world.town import dataset_of
from xrec import schemas
from xrec.data import Dataset
from xrec.data.aspects import NamedAspects, aspect_tables, profile_aspect_tables
from xrec.data.evidence import Menus, Opinions
from xrec.storage import Manifest

Said = tuple[int | str, ...]
"""User, item, aspect and opinion; then sentiment (positive) and split (train)."""
STAND, HORN, DRUM = range(3)
SAID = [
    (0, STAND, "build", "sturdy"),
    (1, STAND, "build", "", "negative"),
    (2, STAND, "build", "sturdy"),
    (0, STAND, "price", "", "negative"),
    (0, HORN, "tone", "warm"),
    (1, HORN, "price", "", "neutral"),
    (3, HORN, "tone", "", "negative", "test"),
    (3, DRUM, "build", "rugged", "positive", "validation"),
]


def _named(said: Sequence[Said]) -> pa.Table:
    names = ("user_index", "item_index", "aspect", "opinion", "sentiment", "split")
    rows = [(*row, *("", "positive", "train")[len(row) - 3 :]) for row in said]
    table = pa.table(list(map(list, zip(*rows, strict=True))), names)
    return table.cast(pa.schema([(n, pa.int32() if "index" in n else pa.string()) for n in names]))


def _dataset(said: Sequence[Said], aspects_from: str = "reviews") -> Dataset:
    manifest = Manifest.model_construct(metrics={"aspects_from": aspects_from})
    return replace(dataset_of(60, 3), manifest=manifest, **aspect_tables(_named(said)))


def _values(table: pa.Table | None) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_aspect_tables_count_training_reviews_only():
    dataset = _dataset(SAID)
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


def test_menus_have_the_aspects_that_training_reviews_do_not_criticize():
    menus = Menus(_dataset(SAID))
    assert menus.of(0) == {"build"}
    assert menus.of(1) == {"price", "tone"}
    assert menus.of(2) == menus.of(99) == frozenset()  # one of them came later
    without = Menus(replace(_dataset(SAID), aspects=None, item_aspects=None))
    assert (without.of(0), without.names) == (frozenset(), [])


@pytest.mark.parametrize(
    ("low_rated", "menu"),
    [
        ((HORN, "tone", "", "positive"), {"price", "tone"}),
        ((HORN, "tone", "", "negative"), {"price"}),
        ((STAND, "tone", "", "negative"), {"price", "tone"}),
        ((HORN, "smell", "", "negative"), {"price", "tone"}),
        ((HORN, "price", "", "negative"), {"tone"}),
    ],
)
def test_menus_count_praise_and_criticism_of_low_rated_reviews(low_rated, menu):
    dataset = _dataset([*SAID, (60, *low_rated, "low_rated")])
    assert dataset.aspects.equals(_dataset(SAID).aspects)
    assert Menus(dataset).of(1) == menu


def test_complaints_are_aspects_that_more_of_a_users_reviews_criticize_than_praise():
    def complaints(*more: Said) -> frozenset[str]:
        return Menus(_dataset([*SAID, *((0, *each, "low_rated") for each in more)])).complaints(0)

    others = [Menus(_dataset(SAID)).complaints(user) for user in (1, 2, 3)]
    assert (complaints(), *others) == ({"price"}, {"build"}, set(), set())
    tone = (DRUM, "tone", "", "negative")
    assert complaints(tone) == {"price"}  # praised once and criticized once
    assert complaints(tone, (STAND, "tone", "", "negative")) == {"price", "tone"}
    assert complaints((DRUM, "price", "", "positive")) == set()


def _opinion(said: Sequence[Said], aspect: str = "build", without: int | None = None) -> str:
    dataset = _dataset(said)
    return Opinions(dataset).of(0, dataset.aspects["aspect"].index(aspect).as_py(), without)


def test_opinion_is_common_in_reviews_of_the_item_and_rare_elsewhere():
    said = [(0, STAND, "build", "sturdy"), (1, STAND, "build", "sturdy")]
    rugged = (2, STAND, "build", "rugged")
    elsewhere = [(user, HORN, "build", "rugged") for user in range(3, 9)]
    assert _opinion([*said, rugged, *elsewhere]) == "sturdy"
    tank = (2, STAND, "build", "built like a tank")
    common = [(user, HORN, "build", "sturdy") for user in range(3, 53)]
    assert _opinion([*said, tank, *common]) == "built like a tank"


def test_opinion_without_a_user_ignores_their_review():
    said = [(0, STAND, "build", "rugged"), (1, STAND, "build", "sturdy")]
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
def test_opinion_is_short_and_says_more_than_good(aspect, opinion, expected):
    assert _opinion([(0, STAND, aspect, opinion)], aspect) == expected


@pytest.mark.parametrize("rest", [("positive", "test"), ("positive", "validation"), ("negative",)])
def test_opinion_comes_from_praise_in_training_reviews_only(rest):
    known = (1, HORN, "build")
    assert _opinion([known, (0, STAND, "build", "rugged", *rest)]) == ""
    of_profiles = _dataset([(0, STAND, "build", "rugged")], "profiles")
    assert Opinions(of_profiles).of(0, 0) == ""


NAMES = ("music", "oven", "pasta", "view")  # no profile names an oven by itself
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


def test_profile_aspects_are_counted_by_item_by_training_items_of_a_user_and_by_explanation():
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

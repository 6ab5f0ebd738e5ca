"""Tables of aspects from profiles against counts by loops; what is held out counts nowhere."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data.profile_aspects import NamedAspects, profile_aspect_tables

NAMES = ("music", "oven", "pasta", "view")  # no profile has an oven but within a longer name
PROFILES = ["view music", "pasta", "music pasta view", ""]
INTERACTIONS = [
    (0, 0, "train"),
    (0, 1, "train"),
    (0, 2, "test"),
    (1, 2, "train"),
    (1, 0, "validation"),
    (2, 0, "train"),
    (2, 2, "train"),
    (2, 3, "train"),
]
EXPLANATIONS = [
    (0, 1, "pasta", "train"),
    (0, 2, "view music view", "test"),
    (1, 3, "nothing", "validation"),
]


def _find(profiles: Sequence[str], explanations: Sequence[str]) -> NamedAspects:
    numbers = {name: number for number, name in enumerate(NAMES)}
    named = [
        [[numbers[word] for word in text.split() if word in numbers] for text in texts]
        for texts in (profiles, explanations)
    ]
    return NamedAspects(NAMES, *named)


def _tables(
    interactions: Sequence[tuple[int, int, str]] = INTERACTIONS,
    explanations: Sequence[tuple[int, int, str, str]] = EXPLANATIONS,
) -> dict[str, pa.Table]:
    items = [(str(number), number, "", profile) for number, profile in enumerate(PROFILES)]
    tables = {
        name: pa.table(list(map(list, zip(*rows, strict=True))), schema.names).cast(schema)
        for name, rows, schema in (
            ("items", items, schemas.ITEMS),
            ("interactions", interactions, schemas.INTERACTIONS),
            ("explanations", explanations, schemas.EXPLANATIONS),
        )
    }
    return profile_aspect_tables(tables, _find)


def test_items_have_the_aspects_of_their_profiles_once() -> None:
    tables = _tables()
    rows = tables["item_aspects"].to_pylist()
    assert [(row["item_index"], NAMES[row["aspect_index"]]) for row in rows] == [
        (0, "music"),
        (0, "view"),
        (1, "pasta"),
        (2, "music"),
        (2, "pasta"),
        (2, "view"),
    ]
    assert {(row["num_reviews"], row["num_positive"], row["num_negative"]) for row in rows} == {
        (1, 1, 0)
    }
    assert tables["aspects"].to_pydict() == {
        "aspect_index": [0, 1, 2, 3],
        "aspect": list(NAMES),
        "num_reviews": [2, 0, 2, 2],
        "num_positive": [2, 0, 2, 2],
        "num_negative": [0, 0, 0, 0],
    }


def test_users_have_the_number_of_their_training_items_with_each_aspect() -> None:
    expected = Counter(
        (user, name)
        for user, item, split in INTERACTIONS
        if split == "train"
        for name in PROFILES[item].split()
    )
    rows = _tables()["user_aspects"].to_pylist()
    found = {(row["user_index"], NAMES[row["aspect_index"]]): row["num_reviews"] for row in rows}
    assert found == expected
    assert list(found) == sorted(found)


def test_explained_pairs_have_what_their_explanations_name_once_with_their_split() -> None:
    rows = _tables()["explanation_aspects"].to_pylist()
    keys = ("user_index", "item_index", "aspect_index", "split", "sentiment")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (0, 1, 2, "train", "positive"),
        (0, 2, 3, "test", "positive"),  # named first
        (0, 2, 0, "test", "positive"),
    ]


@pytest.mark.parametrize("name", ["aspects", "item_aspects", "user_aspects"])
def test_nothing_held_out_is_counted(name: str) -> None:
    without = _tables(
        [row for row in INTERACTIONS if row[2] == "train"],
        [(user, item, "other words", split) for user, item, _, split in EXPLANATIONS],
    )
    assert without[name].equals(_tables()[name])

"""The town: visits, texts and aspects that follow the latent taste."""

import numpy as np
import pytest

from xrec.config.base import parse_config
from xrec.config.data import SampleSource
from xrec.errors import ConfigError
from xrec.sample import ASPECTS, generate_town, town_tables

SOURCE = SampleSource(
    kind="sample",
    num_users=200,
    num_items=100,
    interactions_per_user=24,
    explanations_per_user=8,
    seed=3,
)


@pytest.fixture(scope="module")
def town():
    return generate_town(SOURCE)


def _names(text: str) -> list[int]:
    return [index for index, aspect in enumerate(ASPECTS) if aspect in text.lower()]


@pytest.mark.parametrize("num_items", [100, 700])  # more than there are plain titles
def test_generate_town_has_a_title_of_its_own_for_each_item(num_items):
    titles = generate_town(SOURCE.model_copy(update={"num_items": num_items})).item_titles
    assert len(set(titles)) == num_items


def test_generate_town_same_seed_same_town_other_seed_another(town):
    again, other = generate_town(SOURCE), generate_town(SOURCE.model_copy(update={"seed": 4}))
    assert again.explanations == town.explanations
    assert again.item_profiles == town.item_profiles
    np.testing.assert_array_equal(again.visits, town.visits)
    assert not np.array_equal(other.visits, town.visits)
    assert other.user_profiles != town.user_profiles


def test_texts_name_the_aspects_that_they_should_and_no_others(town):
    for profile, aspects in zip(town.item_profiles, town.item_aspects, strict=True):
        assert _names(profile) == sorted(aspects)
    explanations = iter(town.explanations)
    for user in range(200):
        for item in town.visits[user, :8]:
            best = max(town.item_aspects[item], key=lambda aspect: town.taste[user, aspect])
            assert _names(next(explanations)) == [best]
    assert all(_names(text) == [] for text in town.user_profiles + town.item_titles)


def test_town_tables_have_each_visit_once_with_the_best_liked_aspect(town):
    tables = town_tables(town)
    pairs, explained = (
        [(row["user_id"], row["item_id"]) for row in table.to_pylist()]
        for table in (tables["interactions"], tables["explanations"])
    )
    assert len(set(pairs)) == tables["interactions"]["split"].null_count == 200 * 24
    assert pairs[24] == ("resident-2", f"place-{town.visits[1, 0] + 1}") == explained[8]
    assert set(explained) <= set(pairs)
    rows = tables["aspects"].to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in rows] == pairs
    for number in (0, 24, 1000, 200 * 24 - 1):
        user, place = divmod(number, 24)
        aspects = town.item_aspects[town.visits[user, place]]
        best = max(aspects, key=lambda aspect: town.taste[user, aspect])
        assert rows[number]["aspect"] == ASPECTS[best]
        assert (rows[number]["split"], rows[number]["sentiment"]) == (None, "positive")


@pytest.mark.parametrize(
    ("name", "count", "most"),
    [
        ("interactions_per_user", 31, "num_items = 30"),
        ("explanations_per_user", 25, "interactions_per_user = 24"),
    ],
)
def test_sample_source_more_visits_than_there_can_be_raises(name, count, most):
    with pytest.raises(ConfigError, match=f"{name} must be at most {most}, saw {count}"):
        parse_config(SampleSource, {"kind": "sample", "num_items": 30, name: count})

"""The town: visits follow the latent taste, which can be found from them and nothing else."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from xrec.config.base import parse_config
from xrec.config.data import SampleSource
from xrec.errors import ConfigError
from xrec.sample import ASPECTS, Town, generate_town, town_source

SOURCE = SampleSource(
    kind="sample",
    num_users=200,
    num_items=100,
    interactions_per_user=24,
    explanations_per_user=8,
    seed=3,
)
Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def town() -> Town:
    return generate_town(SOURCE)


def _names(text: str) -> list[int]:
    return [index for index, aspect in enumerate(ASPECTS) if aspect in text.lower()]


def test_generate_town_has_the_configured_sizes(town: Town) -> None:
    assert town.taste.shape == (200, len(ASPECTS))
    assert town.item_aspects.shape == (100, 4)
    assert town.visits.shape == (200, 24)
    assert town.best_aspects.shape == (200, 8)
    assert len(town.explanations) == 1600
    assert all(len(set(visits)) == 24 for visits in town.visits.tolist())
    for num_items in (100, 700):  # more than there are plain titles
        titles = generate_town(SOURCE.model_copy(update={"num_items": num_items})).item_titles
        assert len(set(titles)) == num_items


def test_generate_town_same_seed_same_town_other_seed_another(town: Town) -> None:
    again, other = generate_town(SOURCE), generate_town(SOURCE.model_copy(update={"seed": 4}))
    assert again.explanations == town.explanations
    assert again.item_profiles == town.item_profiles
    np.testing.assert_array_equal(again.visits, town.visits)
    assert not np.array_equal(other.visits, town.visits)
    assert other.user_profiles != town.user_profiles


def test_texts_name_the_aspects_that_they_should_and_no_others(town: Town) -> None:
    for profile, aspects in zip(town.item_profiles, town.item_aspects, strict=True):
        assert _names(profile) == sorted(aspects)
    explanations = iter(town.explanations)
    for user in range(200):
        for item in town.visits[user, :8]:
            best = max(town.item_aspects[item], key=lambda aspect: town.taste[user, aspect])
            assert _names(next(explanations)) == [best]
    assert all(_names(text) == [] for text in town.user_profiles + town.item_titles)


def test_texts_are_short(town: Town) -> None:
    for texts in (town.user_profiles, town.item_profiles, town.explanations):
        assert all(10 <= len(text.split()) <= 36 for text in texts)


def test_user_profile_words_do_not_predict_the_favourite() -> None:
    town = generate_town(SOURCE.model_copy(update={"num_users": 2000}))
    words = [set(re.findall(r"[\w-]+", profile.lower())) for profile in town.user_profiles]
    vocabulary = sorted(set.union(*words))
    features = np.array([[word in known for word in vocabulary] for known in words], np.float64)
    favourite = town.taste.argmax(axis=1)
    predicted = _aspect_scores(features[:1400], favourite[:1400], features[1400:]).argmax(axis=1)
    # Chance is 1/8; four standard deviations of 600 draws are 0.054.
    assert (predicted == favourite[1400:]).mean() < 0.125 + 0.054


def test_taste_is_recovered_from_the_training_visits_of_the_right_user_only(town: Town) -> None:
    """An oracle without xrec: a truncated SVD of the visits, then a ridge regression on aspects."""
    rng = np.random.default_rng(0)
    held_out = rng.random(town.visits.shape) < 0.3
    users, columns = np.nonzero(~held_out)
    visits = np.zeros((200, 100))
    visits[users, town.visits[users, columns]] = 1
    left, values, _ = np.linalg.svd(visits - visits.mean(axis=0), full_matrices=False)
    vectors = left[:, :16] * values[:16]
    users, columns = np.nonzero(~held_out[:, :8])
    known = vectors[users], town.best_aspects[users, columns]
    users, columns = np.nonzero(held_out[:, :8])
    offered, right = (
        town.item_aspects[town.visits[users, columns]],
        town.best_aspects[users, columns],
    )

    def share_right(of_users: npt.NDArray[np.int64]) -> float:
        scores = np.take_along_axis(_aspect_scores(*known, vectors[of_users]), offered, axis=1)
        chosen = np.take_along_axis(offered, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
        return float((chosen == right).mean())

    assert share_right(users) >= 0.8
    assert share_right(rng.permutation(200)[users]) < 0.4
    of_favourite = (town.best_aspects == town.taste.argmax(axis=1)[:, None]).mean()
    assert 0.7 < of_favourite < 0.97  # the favourite alone is not enough


def test_town_source_has_each_visit_once_with_the_best_liked_aspect(town: Town) -> None:
    source = town_source(town)
    pairs, explained = (
        [(row["user_id"], row["item_id"]) for row in table.to_pylist()]
        for table in (source.interactions, source.explanations)
    )
    assert len(set(pairs)) == source.interactions["split"].null_count == 200 * 24
    assert pairs[24] == ("resident-2", f"place-{town.visits[1, 0] + 1}") == explained[8]
    assert set(explained) <= set(pairs)
    rows = source.aspects.to_pylist()
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
def test_sample_source_more_visits_than_there_can_be_raises(
    name: str, count: int, most: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at most {most}, saw {count}"):
        parse_config(SampleSource, {"kind": "sample", "num_items": 30, name: count})


def _aspect_scores(features: Array, right: npt.NDArray[np.int64], others: Array) -> Array:
    """(N, A): what a ridge regression of the right aspects on `features` predicts for `others`."""
    ones = np.eye(len(ASPECTS))[right]
    ridge = 1e-2 * np.eye(features.shape[1])
    weights = np.linalg.solve(
        features.T @ features + ridge, features.T @ (ones - ones.mean(axis=0))
    )
    return np.asarray(others @ weights + ones.mean(axis=0))

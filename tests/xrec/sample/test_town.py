"""The town: visits follow the latent taste, which can be found from them and nothing else."""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
import torch

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
Predict = Callable[[Array, npt.NDArray[np.bool_]], npt.NDArray[np.int64]]


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
    every_aspect = np.ones((2000, len(ASPECTS)), dtype=bool)
    predicted = _fit_aspects(features[:1400], every_aspect[:1400], favourite[:1400])(
        features[1400:], every_aspect[1400:]
    )
    # Chance is 1/8; four standard deviations of 600 draws are 0.054.
    assert (predicted == favourite[1400:]).mean() < 0.125 + 0.054


def test_taste_is_recovered_from_the_training_visits_of_the_right_user_only(town: Town) -> None:
    """An oracle without xrec: a truncated SVD of the visits, then a linear choice of the aspect."""
    rng = np.random.default_rng(0)
    held_out = rng.random(town.visits.shape) < 0.3
    vectors = _user_vectors(town, held_out, dim=16)
    has_aspect = np.zeros((100, len(ASPECTS)), dtype=bool)
    np.put_along_axis(has_aspect, town.item_aspects, True, axis=1)
    users, columns = np.nonzero(~held_out[:, :8])
    choose = _fit_aspects(
        vectors[users], has_aspect[town.visits[users, columns]], town.best_aspects[users, columns]
    )
    users, columns = np.nonzero(held_out[:, :8])
    aspects, right = has_aspect[town.visits[users, columns]], town.best_aspects[users, columns]
    assert (choose(vectors[users], aspects) == right).mean() >= 0.8
    assert (choose(vectors[rng.permutation(200)[users]], aspects) == right).mean() < 0.4
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
    assert source.aspects is not None
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


def _user_vectors(town: Town, held_out: npt.NDArray[np.bool_], dim: int) -> Array:
    """(U, dim): weighted left singular vectors of the degree-normalized matrix of visits.

    Visits that are held out are left out.
    """
    users, columns = np.nonzero(~held_out)
    visits = sp.csr_matrix(
        (np.ones(len(users)), (users, town.visits[users, columns])), shape=(200, 100)
    )
    user_degree = np.asarray(visits.sum(axis=1)).ravel()
    item_degree = np.asarray(visits.sum(axis=0)).ravel()
    normalized = sp.diags(user_degree**-0.5) @ visits @ sp.diags(np.maximum(item_degree, 1) ** -0.5)
    left, values, _ = scipy.sparse.linalg.svds(normalized, k=dim, rng=0)
    vectors = left * values
    return np.asarray(3 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _fit_aspects(
    features: Array, candidates: npt.NDArray[np.bool_], right: npt.NDArray[np.int64]
) -> Predict:
    """The predictions of a multinomial logistic regression over each row's candidates (N, A)."""

    def logits(rows: Array, allowed: npt.NDArray[np.bool_]) -> torch.Tensor:
        return (torch.tensor(rows) @ weight + bias).masked_fill(~torch.tensor(allowed), -1e9)

    weight = torch.zeros(features.shape[1], len(ASPECTS), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(ASPECTS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (
            torch.nn.functional.cross_entropy(logits(features, candidates), torch.tensor(right))
            + 1e-4 * weight.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    return lambda rows, allowed: logits(rows, allowed).argmax(dim=1).numpy()

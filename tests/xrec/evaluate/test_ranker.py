"""The ranker learns what tells a pair's texts apart, and says what it brings on other pairs."""

from pathlib import Path

import numpy as np
import pytest

from xrec.checks import AspectNames
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate.ranker import RankedPair, train_ranker, worth_of
from xrec.generate.candidates import FEATURES, read_ranker, write_ranker
from xrec.storage import open_location

TRAINING = {"ridge": 0.01, "num_folds": 4, "seed": 0}


def pairs_of(count: int, planted: np.ndarray, noise: float = 0.0) -> list[RankedPair]:
    """Worth is a planted score, with a level of its own for each pair."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        features = rng.normal(size=(4, len(FEATURES)))
        worth = features @ planted + rng.normal() * 10 + noise * rng.normal(size=4)
        found.append(RankedPair(features, worth))
    return found


def test_ranker_finds_the_planted_score_whatever_the_level_of_a_pair() -> None:
    planted = np.linspace(-1, 1, len(FEATURES))
    found = train_ranker(pairs_of(60, planted), **TRAINING)
    weights = np.array(found.ranker.weights) / np.array(found.ranker.stds)
    np.testing.assert_allclose(weights, planted, atol=0.05)
    assert found.chosen == pytest.approx(found.best, abs=1e-3)
    assert found.first < found.chosen


def test_ranker_of_noise_brings_nothing_on_pairs_that_were_left_out() -> None:
    found = train_ranker(pairs_of(300, np.zeros(len(FEATURES)), noise=1.0), **TRAINING)
    assert abs(found.chosen - found.first) < 0.25 < found.best - found.first


def test_worth_is_likeness_and_the_aspects_of_the_reference() -> None:
    names = AspectNames(["tea", "garden", "late hours"])
    reference = "You will love its tea and garden"
    same, half, none = worth_of([reference, "tea", "boats"], reference, names)
    assert same == pytest.approx(1.0)
    assert half == pytest.approx((2 / 8 + 2 / 3) / 2)
    assert none == 0
    assert worth_of(["boats here"], "boats", names)[0] == pytest.approx(2 / 3)


def test_too_few_pairs_to_rank_is_refused() -> None:
    lonely = RankedPair(np.zeros((1, len(FEATURES))), np.zeros(1))
    with pytest.raises(DataError, match="0 of 9 pairs have two usable texts"):
        train_ranker([lonely] * 9, **TRAINING)


def test_ranker_artifact_comes_back_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    ranker = train_ranker(pairs_of(20, np.ones(len(FEATURES))), **TRAINING).ranker
    location = open_location(str(tmp_path / "ranker"))
    write_ranker(location, ranker, config={}, inputs={}, row_counts={}, metrics={})
    assert read_ranker(location) == ranker
    (location / "ranker.json").write_bytes(b"{}")
    with pytest.raises(ArtifactMismatchError, match="xrec train-ranker"):
        read_ranker(location)

"""Which reviews are kept and held out, compared with what is worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.annotate.review_files import annotate_config, review, write_json_lines
from xrec.annotate.keep import KeptReviews, keep_reviews
from xrec.annotate.source import find_review_files, read_reviews
from xrec.data.splits import pair_fraction
from xrec.errors import DataError


def _keep(tmp_path: Path, rows: Sequence[dict[str, Any]], **values: Any) -> KeptReviews:
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    config = annotate_config(tmp_path, path, **{"split": {"by": "hash"}, **values})
    return keep_reviews(read_reviews(config, find_review_files(config)).reviews, config)


def _pairs(kept: KeptReviews) -> set[str]:
    rows = kept.reviews.to_pylist()
    return {row["user_id"] + row["item_id"] for row in rows}


def test_keep_reviews_drops_low_and_missing_ratings_and_counts_them(tmp_path: Path) -> None:
    rows = [review("a", "1"), review("b", "2", rating=3.9), review("c", "3", rating=None)]
    kept = _keep(tmp_path, rows, split={"by": "hash", "test": 0, "validation": 0})
    assert _pairs(kept) == {"a1"}
    assert kept.dropped == {"no rating": 1, "rating below 4": 1}


def test_keep_reviews_low_rated_ones_are_the_newest_of_other_pairs_of_kept_items(
    tmp_path: Path,
) -> None:
    rows = [
        review("a", "1"),
        review("b", "1", "old", rating=1, time=1),
        review("b", "1", "new", rating=2, time=2),
        review("a", "1", "of a kept pair", rating=1),
        review("c", "2", "of an item that nobody liked", rating=1),
    ]
    hashed = {"by": "hash", "test": 0, "validation": 0}
    kept = _keep(tmp_path, rows, split=hashed)
    assert _pairs(kept) == {"a1"}
    assert kept.low_rated.schema == kept.reviews.schema
    (row,) = kept.low_rated.to_pylist()
    assert (row["review"], row["rating"], row["split"]) == ("new", 2, "low_rated")
    assert kept.dropped == {"rating below 4": 4}
    assert _keep(tmp_path, rows, split=hashed, low_rated=False).low_rated.num_rows == 0


def test_keep_reviews_without_ratings_or_threshold_keeps_all(tmp_path: Path) -> None:
    hashed = {"by": "hash", "test": 0, "validation": 0}
    rows = [review("a", "1", rating=None), review("b", "2", rating=None)]
    assert _pairs(_keep(tmp_path, rows, split=hashed)) == {"a1", "b2"}
    rows = [review("a", "1", rating=1), review("b", "2")]
    assert _pairs(_keep(tmp_path, rows, min_rating=None, split=hashed)) == {"a1", "b2"}


def test_keep_reviews_of_a_repeated_pair_keeps_the_newest(tmp_path: Path) -> None:
    rows = [
        review("a", "1", "old", time=5),
        review("a", "1", "new", time=9),
        review("a", "1", "older", time=1),
        review("a", "2", "once", time=3),
    ]
    kept = _keep(tmp_path, rows, split={"by": "hash", "test": 0, "validation": 0})
    assert sorted(kept.reviews["review"].to_pylist()) == ["new", "once"]
    assert kept.dropped == {"another review of the same pair": 2}


def test_keep_reviews_core_is_applied_until_nothing_changes(tmp_path: Path) -> None:
    # c has two reviews, but 3 has one; without 3, c has one and goes, and so does nobody else.
    rows = [review(*pair) for pair in ("a1", "a2", "b1", "b2", "c1", "c3")]
    kept = _keep(
        tmp_path,
        rows,
        core=2,
        split={"by": "hash", "test": 0, "validation": 0},
    )
    assert _pairs(kept) == {"a1", "a2", "b1", "b2"}
    assert kept.dropped == {"too few reviews (core)": 2}


def test_keep_reviews_by_time_holds_out_each_user_s_last_two(tmp_path: Path) -> None:
    rows = [
        review("a", "1", time=30),
        review("a", "2", time=10),
        review("a", "3", time=20),
        review("a", "4", time=5),
        review("b", "1", time=1),
        review("b", "2", time=1),
        review("b", "3", time=1),
        review("c", "1", time=1),
        review("c", "2", time=2),
    ]
    kept = _keep(tmp_path, rows, split={"by": "time"})
    splits = {row["user_id"] + row["item_id"]: row["split"] for row in kept.reviews.to_pylist()}
    assert splits == {
        "a4": "train",
        "a2": "train",
        "a3": "validation",
        "a1": "test",
        "b1": "train",  # of equal times, the later row is the later one
        "b2": "validation",
        "b3": "test",
        "c1": "train",  # two reviews only
        "c2": "train",
    }


def test_keep_reviews_by_hash_follows_the_hash_of_the_pair(tmp_path: Path) -> None:
    rows = [review(f"u{number}", f"i{number % 7}") for number in range(200)]
    kept = _keep(tmp_path, rows, split={"by": "hash", "test": 0.2, "validation": 0.1, "seed": 3})
    for row in kept.reviews.to_pylist():
        fraction = pair_fraction(row["user_id"], row["item_id"], 3)
        expected = "test" if fraction < 0.2 else "validation" if fraction < 0.3 else "train"
        assert row["split"] == expected


def test_keep_reviews_by_time_without_times_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 reviews have no time; .*split.by to hash"):
        _keep(tmp_path, [review("a", "1", time=1), review("b", "1")], split={"by": "time"})


def test_keep_reviews_of_which_none_is_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no review is left \(1 x rating below 4\)"):
        _keep(tmp_path, [review("a", "1", rating=1)])
    with pytest.raises(DataError, match=r"no review is left \(1 x too few reviews \(core\)\)"):
        _keep(tmp_path, [review("a", "1")], core=2)


def test_keep_reviews_of_one_user_alone_leaves_reviews_to_train_on(tmp_path: Path) -> None:
    rows = [review("a", str(number), time=number) for number in range(5)]
    kept = _keep(tmp_path, rows, split={"by": "time"})
    assert sorted(kept.reviews["split"].to_pylist()) == [
        "test",
        "train",
        "train",
        "train",
        "validation",
    ]

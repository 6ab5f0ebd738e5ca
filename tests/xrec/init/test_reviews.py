"""Folders of reviews: what `xrec init` makes of them, and that the project then works."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.world.shop import review, write_json_lines
from tests.xrec.init.shop import CPU
from xrec.init.project import Findings, init_project, notes

NUM_USERS, NUM_ITEMS = 12, 6


def _reviews(**more: Any) -> list[dict[str, Any]]:
    return [
        review(
            f"u{user}",
            f"i{(user + number) % NUM_ITEMS}",
            f"The warm tone is great and it is easy to use, number {number}.",
            **{"rating": 5 - number % 2, "time": 1000 + number, **more},
        )
        for user in range(NUM_USERS)
        for number in range(5)
    ]


def _init(tmp_path: Path, source: Path) -> tuple[Findings, dict[str, Any]]:
    findings = init_project(str(tmp_path / "project"), str(source), machine=CPU)
    values = yaml.safe_load((tmp_path / "project" / "xrec.yaml").read_text())
    return findings, values


def test_init_from_a_file_of_reviews_writes_all_jobs_from_annotate_on(tmp_path):
    path = write_json_lines(tmp_path / "reviews.jsonl.gz", _reviews())
    findings, values = _init(tmp_path, path)
    jobs = ["annotate", "prepare", "pretrain-graph", "train-aspects", "train-adapter"]
    assert list(values)[5:10] == jobs
    assert values["prompt"]["aspects"] == 3
    assert values["decoding"]["text"]["checks"]["unsupported"] is True
    good = ["good review", "good reviews"]  # those below min_rating do not count
    assert values["decoding"]["text"]["plain"] == {"reviews": good}
    assert values["pretrain-graph"]["model"]["aspects"] is True
    assert values["annotate"] == {
        "source": {"kind": "reviews", "uri": str(path)},
        "rating_range": [1, 5],
        "min_rating": 4,
        "split": {"by": "time"},
        "annotator": {"kind": "phrases"},
    }
    assert values["prepare"] == {"source": {"kind": "annotations"}}
    assert findings.survey.num_explanations == {"train": 36, "validation": 12, "test": 12}
    assert notes(findings) == [
        "no table of items: items are called what their reviews call them, as this film"
    ]


def test_init_from_amazon_s_files_maps_columns_of_both(tmp_path):
    names = {"user_id": "reviewerID", "item_id": "asin", "review": "reviewText"}
    names |= {"rating": "overall", "time": "unixReviewTime"}
    more = {
        "reviewerName": "Some One",
        "helpful": [0, 0],
        "summary": "Works",
        "reviewTime": "09 30",
    }
    rows = [{**{theirs: row[ours] for ours, theirs in names.items()}, **more} for row in _reviews()]
    items = [
        {"asin": f"i{number}", "title": f"Cable {number}", "brand": "Ax", "price": 3.5}
        for number in range(NUM_ITEMS)
    ]
    write_json_lines(tmp_path / "raw" / "reviews_Music.json", rows)
    write_json_lines(tmp_path / "raw" / "meta_Music.json", items)
    _, values = _init(tmp_path, tmp_path / "raw")
    assert values["annotate"]["source"] == {
        "kind": "reviews",
        "uri": str(tmp_path / "raw"),
        "files": {"reviews": "reviews_Music.json", "items": "meta_Music.json"},
        "columns": names,
    }
    assert list(values["decoding"]["text"]["plain"]) == ["reviews"]  # the source has titles


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"rating": 9}, {"rating_range": [1, 10], "min_rating": 8}),
        ({"rating": 0.5}, {"rating_range": [0.5, 5], "min_rating": 4}),
        ({"rating": 88}, {"rating_range": [1, 100], "min_rating": 75}),
        ({"rating": 0}, {"rating_range": [0, 1], "min_rating": 1}),
        ({"rating": "nan"}, {"rating_range": [1, 5], "min_rating": 4}),
        ({"time": None}, {"split": {"by": "time"}}),
        ({"time": "nan"}, {"split": {"by": "time"}}),
    ],
)
def test_init_of_reviews_fits_ratings_and_split_to_what_is_there(tmp_path, first, expected):
    odd = review("x", "i1", "Warm.", **{"rating": 1, "time": 1, **first})
    # The odd one is rated 9 or 88 of 10 or 100 as the others are, or 0 where the others are 1.
    of_others = {9: 9, 88: 88, 0: 1}.get(first.get("rating", 5), 5)
    rows = [*_reviews(rating=of_others), odd]
    _, values = _init(tmp_path, write_json_lines(tmp_path / "reviews.jsonl", rows))
    assert {key: values["annotate"][key] for key in expected} == expected


def test_init_of_reviews_whose_time_and_rating_are_none_does_without(tmp_path):
    rows = _reviews(time="last summer", rating="good")
    _, values = _init(tmp_path, write_json_lines(tmp_path / "reviews.jsonl", rows))
    assert values["annotate"]["source"]["columns"] == {"rating": None, "time": None}
    assert values["annotate"]["split"] == {"by": "hash"}
    assert "min_rating" not in values["annotate"]


def test_init_with_a_table_of_users_or_a_reason_takes_the_texts_as_they_are(tmp_path):
    users = [{"user_id": f"u{user}", "profile": "Likes tea."} for user in range(NUM_USERS)]
    write_json_lines(tmp_path / "raw" / "reviews.jsonl", _reviews())
    write_json_lines(tmp_path / "raw" / "users.jsonl", users)
    findings, values = _init(tmp_path, tmp_path / "raw")
    assert findings.reviews is None
    assert values["prepare"]["source"]["kind"] == "tables"
    reasons = [
        {"user_id": row["user_id"], "item_id": row["item_id"], "reason": row["review"]}
        for row in _reviews()
    ]
    write_json_lines(tmp_path / "other" / "pairs.jsonl", reasons)
    assert init_project(str(tmp_path / "p2"), str(tmp_path / "other"), machine=CPU).reviews is None

"""The benchmark's reviews are such that an annotator has something to find."""

import gzip
import json
from pathlib import Path

from benchmarks.annotate import sample_reviews, slope, write_reviews


def test_annotate_benchmark_reviews_are_as_told(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.jsonl.gz", 500)
    data = gzip.decompress((tmp_path / "reviews.jsonl.gz").read_bytes())
    rows = [json.loads(line) for line in data.splitlines()]
    assert rows == list(sample_reviews(500))
    words = [len(row["review"].split()) for row in rows]
    assert 45 < sum(words) / len(words) < 85
    assert len({row["user_id"] for row in rows}) <= 50
    assert len({row["item_id"] for row in rows}) <= 5


def test_annotate_benchmark_slope_of_twice_the_seconds_is_one() -> None:
    rows = [{"reviews": 10, "cpu_seconds": 3.0}, {"reviews": 20, "cpu_seconds": 6.0}]
    assert slope(rows, "cpu_seconds") == 1

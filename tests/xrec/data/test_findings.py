"""Findings: counted, listed, and an error over the threshold."""

import pytest

from xrec import schemas
from xrec.data.findings import Finding, check_rejected_share, count_reasons, rejected_table
from xrec.errors import DataError

FINDINGS = [
    Finding("a.csv", 9, "bad", "x"),
    Finding("a.csv", 3, "worse", "y,z"),
    Finding("a.csv", 12, "bad", "w"),
]


def test_findings_are_counted_and_listed_with_a_cut_valid_text() -> None:
    assert count_reasons(FINDINGS) == {"a.csv: bad": 2, "a.csv: worse": 1}
    table = rejected_table([Finding("a.csv", 3, "bad", "\udcff" + "x" * 1000)])
    assert table.schema.equals(schemas.REJECTED)
    assert table["line"].to_pylist() == [3]
    assert table["text"].to_pylist() == ["?" + "x" * 119]


def test_rejected_share_over_the_threshold_of_one_file_is_refused() -> None:
    check_rejected_share(FINDINGS, {"a.csv": 300}, 0.01, "/data")
    with pytest.raises(DataError, match=r"^/data/a\.csv: 3 of 299 rows are unusable") as caught:
        check_rejected_share(FINDINGS, {"b.csv": 100_000, "a.csv": 299}, 0.01, "/data/")
    for part in ("line 3: worse: 'y,z'", "2 x bad", "max_rejected_share"):
        assert part in str(caught.value)

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


def test_rejected_table_has_the_schema_and_a_cut_valid_text() -> None:
    table = rejected_table([Finding("a.csv", 3, "bad", "\udcff" + "x" * 1000)])
    assert table.schema.equals(schemas.REJECTED)
    assert table["line"].to_pylist() == [3]
    assert table["text"].to_pylist() == ["?" + "x" * 119]


def test_count_reasons_counts_by_file_and_reason() -> None:
    assert count_reasons(FINDINGS) == {"a.csv: bad": 2, "a.csv: worse": 1}


def test_check_rejected_share_at_the_threshold_passes() -> None:
    check_rejected_share(FINDINGS, {"a.csv": 300}, 0.01, "/data")


def test_check_rejected_share_over_the_threshold_names_file_line_reason_and_counts() -> None:
    with pytest.raises(DataError) as caught:
        check_rejected_share(FINDINGS, {"a.csv": 299, "b.csv": 5}, 0.01, "/data/")
    message = str(caught.value)
    assert message.startswith("/data/a.csv: 3 of 299 rows are unusable")
    assert "line 3: worse: 'y,z'" in message
    assert "2 x bad" in message
    assert "max_rejected_share" in message


def test_check_rejected_share_counts_each_file_alone() -> None:
    with pytest.raises(DataError, match=r"b\.csv: 1 of 2 rows"):
        check_rejected_share(
            [Finding("b.csv", 1, "bad", "")], {"a.csv": 1_000_000, "b.csv": 2}, 0.01, "/data"
        )

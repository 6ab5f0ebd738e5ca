"""Ids become strings or rejected rows, and no two keys have one hash by concatenation."""

import math
import re

import pyarrow as pa
import pytest

from xrec.bulk.runs.keys import bucket_of, clean_keys
from xrec.errors import DataError

KEYS = ("user", "item")


def clean(users: pa.Array, items: pa.Array | None = None) -> tuple[list[str], list[list[object]]]:
    """The users of good rows, and line, reason and text of rejected ones."""
    items = pa.array(["i"] * len(users)) if items is None else items
    good, rejected = clean_keys(
        pa.table({"user": users, "item": items}), KEYS, file="ids.parquet", first_line=11
    )
    assert set(rejected["file"].to_pylist()) <= {"ids.parquet"}
    columns = [rejected[name].to_pylist() for name in ("line", "reason", "text")]
    return good["user"].to_pylist(), [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint64(), pa.int64()])
def test_clean_keys_integers_are_written_exactly(type_: pa.DataType) -> None:
    assert clean(pa.array([7, 0], type_)) == (["7", "0"], [])
    largest = pa.array([2**63 - 1], pa.int64())
    assert clean(largest) == (["9223372036854775807"], [])


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.binary()])
def test_clean_keys_strings_stay_as_they_are(type_: pa.DataType) -> None:
    ids = ["ü", "", "a\x1fb", " x ", "007"]
    assert clean(pa.array([id_.encode() for id_ in ids], pa.binary()).cast(type_)) == (ids, [])


def test_clean_keys_dictionaries_are_their_values() -> None:
    assert clean(pa.array(["b", "a", "b"]).dictionary_encode()) == (["b", "a", "b"], [])


def test_clean_keys_floats_are_rejected_with_line_and_reason() -> None:
    ids = pa.array([12345678901234567.0, math.nan, 5.0, None])
    good, rejected = clean(ids)
    assert good == []
    assert [row[:2] for row in rejected] == [
        [11, "float_id"],
        [12, "nan_id"],
        [13, "float_id"],
        [14, "null_id"],
    ]
    assert rejected[2][2] == "user=5.0, item='i'"


def test_clean_keys_invalid_utf8_rejects_its_row_alone() -> None:
    data = pa.array([b"good", b"\xff\xfe", b"also good"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 3, data.buffers())  # as a Parquet file may have it
    for ids in (data, strings):
        good, rejected = clean(ids)
        assert good == ["good", "also good"]
        assert rejected == [[12, "invalid_utf8", r"user='\\xff\\xfe', item='i'"]]


def test_clean_keys_row_with_two_bad_ids_is_rejected_once() -> None:
    good, rejected = clean(pa.array([None, "u"], pa.string()), pa.array([math.nan, math.nan]))
    assert good == []
    assert [row[1] for row in rejected] == ["null_id", "nan_id"]


def test_clean_keys_column_that_is_missing_or_of_another_type_is_an_error() -> None:
    with pytest.raises(DataError, match=re.escape("expected columns user, item, saw user")):
        clean_keys(pa.table({"user": ["u"]}), KEYS, file="f", first_line=1)
    with pytest.raises(DataError, match=r"column item: expected ids .* saw bool; cast it"):
        clean(pa.array(["u"]), pa.array([True]))


def test_bucket_of_a_key_is_the_same_in_every_version() -> None:
    found = [bucket_of(key, 1024) for key in ("", "u-1", "ü")]
    assert found == [18, 851, 820]
    assert {bucket_of(key, 1) for key in ("", "u-1", "ü")} == {0}

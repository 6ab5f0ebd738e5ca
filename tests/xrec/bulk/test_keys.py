"""Ids become strings or rejected rows, and no two keys have one hash by concatenation."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest

from xrec.bulk.keys import clean_keys, key_hash, key_hashes, rows_hash
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


def test_key_hash_does_not_depend_on_the_process() -> None:
    assert key_hash("u-1") == 2520433212151345096
    assert key_hashes(pa.chunked_array([["u-1", "ü"], ["u-1"]])).tolist() == [
        key_hash("u-1"),
        key_hash("ü"),
        key_hash("u-1"),
    ]
    assert key_hashes(pa.chunked_array([], pa.string())).dtype == np.uint64


def test_hashes_of_other_parts_with_the_same_concatenation_differ() -> None:
    keys = [("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""), ("", "abc"), ("a\x1fb", "c")]
    assert len({key_hash(*key) for key in keys}) == len(keys)
    tables = [
        {"user": ["a\x1fb"], "item": ["c"]},
        {"user": ["a"], "item": ["b\x1fc"]},
        {"user": ["a", "b"], "item": ["c", "d"]},
        {"user": ["ab", ""], "item": ["c", "d"]},
        {"user": ["a", "b"], "item": ["cd", ""]},
        {"user": ["b", "a"], "item": ["c", "d"]},
    ]
    assert len({rows_hash(pa.table(table)) for table in tables}) == len(tables)
    rows = pa.table(tables[2])
    assert rows_hash(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == rows_hash(rows)

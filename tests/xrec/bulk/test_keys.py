"""Ids become strings or rejected rows, and a key's bucket is the same in every version."""

import math
import re
from typing import Any

import pyarrow as pa
import pytest

from xrec.bulk.runs.keys import bucket_of, clean_keys
from xrec.errors import DataError

KEYS = ("user", "item")
STRINGS = ["ü", "", "a\x1fb", " x ", "007"]
BINARY = pa.array([text.encode() for text in STRINGS], pa.binary())
BROKEN = pa.array([b"good", b"\xff\xfe", b"also good"], pa.binary())
BROKEN_TEXT = pa.Array.from_buffers(pa.string(), 3, BROKEN.buffers())  # as Parquet may have it


def clean(
    users: pa.Array, items: pa.Array | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The users of good rows, and line, reason and text of rejected ones."""
    items = pa.array(["i"] * len(users)) if items is None else items
    table = pa.table({"user": users, "item": items})
    good, rejected = clean_keys(table, KEYS, file="ids.parquet", first_line=11)
    assert set(rejected["file"].to_pylist()) <= {"ids.parquet"}
    columns = [rejected[name].to_pylist() for name in ("line", "reason", "text")]
    return good["user"].to_pylist(), list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        *((pa.array([7, 0], type_), ["7", "0"]) for type_ in (pa.int8(), pa.uint64(), pa.int64())),
        (pa.array([2**63 - 1]), ["9223372036854775807"]),
        *((BINARY.cast(type_), STRINGS) for type_ in (pa.string(), pa.large_string(), pa.binary())),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    ],
)
def test_ids_that_have_an_exact_text_are_it(ids, expected):
    assert clean(ids) == (expected, [])


@pytest.mark.parametrize("ids", [BROKEN, BROKEN_TEXT])
def test_invalid_utf8_rejects_its_row_alone(ids):
    rejected = (12, "invalid_utf8", r"user='\\xff\\xfe', item='i'")
    assert clean(ids) == (["good", "also good"], [rejected])


def test_row_without_an_exact_id_is_rejected_once_with_line_and_reason():
    ids = pa.array([12345678901234567.0, math.nan, 5.0, None])
    good, rejected = clean(ids, pa.array(["i", "i", "i", None]))
    reasons = ["float_id", "nan_id", "float_id", "null_id"]
    assert (good, [row[:2] for row in rejected]) == ([], list(enumerate(reasons, 11)))
    assert rejected[2][2] == "user=5.0, item='i'"


def test_column_that_is_missing_or_of_another_type_is_an_error():
    with pytest.raises(DataError, match=re.escape("expected columns user, item, saw user")):
        clean_keys(pa.table({"user": ["u"]}), KEYS, file="f", first_line=1)
    with pytest.raises(DataError, match=r"column item: expected ids .* saw bool; cast it"):
        clean(pa.array(["u"]), pa.array([True]))


def test_bucket_of_a_key_is_the_same_in_every_version():
    found = [bucket_of(key, 1024) for key in ("", "u-1", "ü")]
    assert found == [18, 851, 820]
    assert {bucket_of(key, 1) for key in ("", "u-1", "ü")} == {0}

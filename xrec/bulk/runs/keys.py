"""Keys: the ids that name a row, as strings.

An id is a string or an integer. Any other id could be changed by writing it as a string, so its row
is rejected with a reason: a float such as 12345678901234567.0 has no exact string, NaN is no id,
and bytes that are not UTF-8 cannot be written as text.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import pyarrow as pa

from xrec.errors import DataError
from xrec.schemas import REJECTED

Rejection = Literal["null_id", "float_id", "nan_id", "invalid_utf8"]

_TEXT_BYTES = 200  # of a rejected row, which are kept


def bucket_of(key: str, num_buckets: int) -> int:
    """The bucket of a row with this first key: which of C equal ranges has the key's MD5."""
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return (int.from_bytes(digest[4:8], "little") * num_buckets) >> 32


def clean_keys(
    table: pa.Table, keys: Sequence[str], *, file: str, first_line: int
) -> tuple[pa.Table, pa.Table]:
    """Divide rows into those whose keys are all good, and rejected ones.

    Returns the columns `keys` of the good rows as strings, and the rejected rows (schema REJECTED).
    `file` is where the rows were read, and `first_line` the line of the first of them.

    Raises DataError if a column is missing, or holds neither strings nor numbers.
    """
    missing = [name for name in keys if name not in table.schema.names]
    if missing:
        raise DataError(
            f"{file}: expected columns {', '.join(keys)}, saw {', '.join(table.schema.names)}; "
            "rename or add them",
            code="missing_column",
            key=missing[0],
            saw=table.schema.names,
        )
    ids = [_ids(table[name], f"{file}: column {name}") for name in keys]
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in keys])
    if not any(each.null_count or pa.types.is_floating(each.type) for each in ids):
        with suppress(pa.ArrowInvalid):  # some id is not UTF-8
            return pa.table(
                [each.cast(pa.string()) for each in ids], schema
            ), REJECTED.empty_table()
    good: list[dict[str, str]] = []
    rejected = []
    for line, row in enumerate(zip(*(each.to_pylist() for each in ids), strict=True), first_line):
        texts = {name: _shown(value) for name, value in zip(keys, row, strict=True)}
        if reason := next(filter(None, map(_reason_against, row)), None):
            text = ", ".join(f"{name}={value!r}" for name, value in texts.items())[:_TEXT_BYTES]
            rejected.append({"file": file, "line": line, "reason": reason, "text": text})
        else:
            good.append({name: str(value) for name, value in texts.items()})
    return pa.Table.from_pylist(good, schema), pa.Table.from_pylist(rejected, REJECTED)


def _ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The ids as integers, floats, or bytes, which may be no UTF-8."""
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return column.cast(type_)
    bytes_ = (pa.null(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    if type_ not in bytes_:
        raise DataError(
            f"{name}: expected ids that are strings or integers, saw {type_}; cast it",
            code="wrong_type",
            key=name,
            saw=str(type_),
        )
    return column.cast(type_).cast(pa.large_binary())


def _reason_against(value: bytes | float | None) -> Rejection | None:
    """Why an id has no exact text; None if it has."""
    if value is None:
        return "null_id"
    if isinstance(value, float):
        return "nan_id" if math.isnan(value) else "float_id"
    with suppress(UnicodeDecodeError):
        _ = value.decode() if isinstance(value, bytes) else ""
        return None
    return "invalid_utf8"


def _shown(value: bytes | float | None) -> str | float | None:
    """An id for a reader; that of a good row is its exact text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value

"""Keys: the ids that name a row, as strings.

An id is a string or an integer. Any other id could be changed by writing it as a string, so its row
is rejected with a reason: a float such as 12345678901234567.0 has no exact string, NaN is no id,
and bytes that are not UTF-8 cannot be written as text.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.errors import DataError
from xrec.schemas import REJECTED

Rejection = Literal["null_id", "float_id", "nan_id", "invalid_utf8"]
REJECTIONS: tuple[Rejection, ...] = get_args(Rejection)

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
            "rename or add them"
        )
    cleaned = [_clean_column(_as_array(table[name]), f"{file}: column {name}") for name in keys]
    reasons = _first_reason([reasons for _, reasons in cleaned], table.num_rows)
    is_good = pc.is_null(reasons)
    good = pa.table(dict(zip(keys, (ids for ids, _ in cleaned), strict=True)))
    lines = np.flatnonzero(~is_good.to_numpy(zero_copy_only=False))
    rejected = pa.table(
        {
            "file": pa.repeat(file, len(lines)),
            "line": pa.array(lines + first_line, pa.int64()),
            "reason": reasons.take(pa.array(lines)),
            "text": [_text(table, keys, int(line)) for line in lines],
        }
    ).cast(REJECTED)
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in keys])
    return good.filter(is_good).cast(schema), rejected


def _clean_column(ids: pa.Array, name: str) -> tuple[pa.Array, pa.Array]:
    """The ids as strings, and for each the reason why it is none, null if it is one."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    type_ = ids.type
    if pa.types.is_null(type_):
        return pa.nulls(len(ids), pa.string()), pa.repeat("null_id", len(ids))
    reasons = _if(pc.is_null(ids), "null_id")
    if pa.types.is_integer(type_):
        return ids.cast(pa.string()), reasons
    if pa.types.is_floating(type_):
        is_nan = pc.fill_null(pc.is_nan(ids), False)
        reasons = pc.coalesce(reasons, _if(is_nan, "nan_id"), pa.repeat("float_id", len(ids)))
        return pa.nulls(len(ids), pa.string()), reasons
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)) and not (
        pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    ):
        raise DataError(f"{name}: expected ids that are strings or integers, saw {type_}; cast it")
    return _clean_strings(ids.cast(pa.large_binary()), reasons)


def _clean_strings(ids: pa.Array, reasons: pa.Array) -> tuple[pa.Array, pa.Array]:
    try:
        return ids.cast(pa.string()), reasons
    except pa.ArrowInvalid:  # some id is not UTF-8, so each is looked at
        texts = [None if data is None else _decoded(data) for data in ids.to_pylist()]
        strings = pa.array(texts, pa.string())
        return strings, pc.coalesce(reasons, _if(pc.is_null(strings), "invalid_utf8"))


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _if(is_so: pa.Array, reason: Rejection) -> pa.Array:
    return pc.if_else(is_so, pa.scalar(reason), pa.scalar(None, pa.string()))


def _first_reason(columns: Sequence[pa.Array], num_rows: int) -> pa.Array:
    return pc.coalesce(pa.nulls(num_rows, pa.string()), *columns)


def _text(table: pa.Table, keys: Sequence[str], row: int) -> str:
    """The ids of a row for a reader, cut off where they are long."""
    shown = []
    for name in keys:
        array = _as_array(table[name].slice(row, 1))
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array = array.cast(pa.large_binary())  # else pyarrow cannot show what is not UTF-8
        value = array.to_pylist()[0]
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
        shown.append(f"{name}={text!r}")
    return ", ".join(shown)[:_TEXT_BYTES]


def _as_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)

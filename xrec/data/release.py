"""Reads the public XRec release: the folder of one dataset in a clone of github.com/HKUDS/XRec.

`total_trn.csv`, `total_val.csv`, and `total_tst.csv` have the interactions of a split, in the
columns user and item. `trn.pkl`, `val.pkl`, and `tst.pkl` have its explained pairs: pickled tables
with the columns uid, iid, title, user_summary, item_summary, and explanation. `data.json` (or
`data.jsonl`) has all of them, one per line, without splits. In a clone, those that Git LFS has not
fetched are pointers. The optional `item_profiles.jsonl`, with iid and item_summary, also has
profiles of items without explanations.
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.data.rows import FileRows, Parser, parse_id, parse_text, stream_rows
from xrec.data.sources import Files
from xrec.data.staging import Staging
from xrec.errors import DataError, first_line_of
from xrec.storage import Location

_SPLIT_FILES = {"total_trn.csv": "train", "total_val.csv": "validation", "total_tst.csv": "test"}
_PICKLES = {"trn.pkl": "train", "val.pkl": "validation", "tst.pkl": "test"}
_LINES = ("data.jsonl", "data.json")
_PROFILE_FILE = "item_profiles.jsonl"
_LFS_POINTER = b"version https://git-lfs"
_IDS: dict[str, Parser] = {"user_id": parse_id, "item_id": parse_id}
_TEXTS = dict.fromkeys(("title", "user_summary", "item_summary", "explanation"), parse_text)
_PROFILES: dict[str, Parser] = {"item_id": parse_id, "item_summary": parse_text}
# What a pickled table of texts and numbers consists of, in pandas 1 and 2.
_TABLE_CLASSES = {
    "builtins": "slice",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "pandas": "DataFrame Index RangeIndex",
    "pandas._libs.internals": "_unpickle_block",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "_new_Index Index",
    "pandas.core.indexes.numeric": "Int64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.blocks": "new_block",
    "pandas.core.internals.managers": "BlockManager",
}


def is_release(folder: Location) -> bool:
    """Return whether a folder has the interactions of a release."""
    return all((folder / name).is_file() for name in _SPLIT_FILES)


def find_release_files(folder: Location) -> dict[str, dict[str, Location]]:
    """Return the files of a release in `folder`; each file is a table of its own name.

    The explained pairs are the pickles if that of training is there, else those without splits,
    else any pickle. Raises DataError if a file is missing, with the files that were found.
    """
    missing = [name for name in _SPLIT_FILES if not (folder / name).is_file()]
    pickles, lines = ([n for n in names if _is_fetched(folder / n)] for names in (_PICKLES, _LINES))
    explained = pickles if "trn.pkl" in pickles else lines[:1] or pickles
    if missing or not explained:
        seen = tuple(folder.files()[:10])
        raise DataError(
            f"{folder}: missing file(s) {', '.join(missing) or 'with explained pairs'}; expected "
            f"the public XRec release ({', '.join(_SPLIT_FILES)}, and trn.pkl, data.json or "
            f"tst.pkl), saw {', '.join(seen) or 'no files'}; check source.uri, or run git lfs pull "
            "in the clone",
            code="missing_file",
            key=(missing or ["trn.pkl"])[0],
            saw=seen,
        )
    profiles = [_PROFILE_FILE] if (folder / _PROFILE_FILE).is_file() else []
    return {name: {name: folder / name} for name in (*_SPLIT_FILES, *explained, *profiles)}


def _is_fetched(location: Location) -> bool:
    """Return whether a file exists and is not a pointer to what Git LFS would fetch."""
    return location.is_file() and not location.read_range(0, 64).startswith(_LFS_POINTER)


def read_release(staging: Staging, files: Files) -> None:
    """Read a release from its files.

    Users and items are collected from all files. Without an explained pair, their profiles and
    titles are empty; an item's profile in item_profiles.jsonl overrides that of the pairs. Without
    `trn.pkl`, the explained pairs are split by hash. Raises DataError if a column is missing or a
    pickle has anything else than a table.
    """
    for name, each in files.items():
        names: dict[str, tuple[str, ...]] = {"user_id": ("uid",), "item_id": ("iid",)}
        table, columns = "described", _PROFILES
        if name in _SPLIT_FILES:
            table, split = "interactions", _SPLIT_FILES[name]
            names = {"user_id": ("user",), "item_id": ("item",), "split": ()}
            columns = {**_IDS, "split": partial(_given, split)}
        elif name != _PROFILE_FILE:
            own = _PICKLES.get(name) if "trn.pkl" in files else None
            names["split"], columns = (), {**_IDS, **_TEXTS, "split": partial(_given, own)}
        stream = partial(stream_rows, columns=columns, names=names)
        if name in _PICKLES:
            stream = partial(_stream_pickle, columns=columns, names=names)
        staging.read(table, each, stream)
    staging.fill(
        "explanations",
        """SELECT user_id, item_id, explanation, split, file, line
        FROM raw.described WHERE user_id IS NOT NULL""",
    )
    _describe(staging, "users", "user_id", {"profile": "user_summary"})
    _describe(staging, "items", "item_id", {"title": "title", "profile": "item_summary"})


def _given(split: str | None, _: object) -> str | None:
    """Return `split`; the parser for a file whose rows all have the same split."""
    return split


def _stream_pickle(
    file: str,
    source: IO[bytes],
    columns: Mapping[str, Parser],
    names: Mapping[str, tuple[str, ...]],
) -> Iterator[FileRows]:
    """Parse a pickled table like `stream_rows`, as Parquet."""
    try:
        table = pa.Table.from_pandas(_read_pickle(source), preserve_index=False)
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{file}: not a pickled pandas table of texts and numbers ({first_line_of(error)}); "
            "fetch the file of the release again",
            code="broken_file",
            key=file,
        ) from error
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    buffer.seek(0)
    yield from stream_rows(f"{file}.parquet", buffer, columns, names=names)


def _read_pickle(source: IO[bytes]) -> object:
    """Return the object in a pickle, which may only consist of `_TABLE_CLASSES`."""
    from pandas.compat.pickle_compat import Unpickler  # reads the tables of older versions too

    class TableUnpickler(Unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> object:
            if name not in _TABLE_CLASSES.get(module, "").split():
                raise pickle.UnpicklingError(f"it has {module}.{name}")
            return super().find_class(module, name)

    return TableUnpickler(source).load()


def _describe(staging: Staging, table: str, key: str, texts: Mapping[str, str]) -> None:
    """Add each ID once, with the first non-empty value of each of its texts.

    texts: maps our columns to those of the raw table `described`.
    """
    first = ", ".join(
        f"coalesce(first({theirs} ORDER BY file DESC, line) FILTER ({theirs} <> ''), '') AS {ours}"
        for ours, theirs in texts.items()
    )
    staging.fill(
        table,
        f"""SELECT {key}, {first}
        FROM (FROM raw.described UNION ALL BY NAME SELECT {key} FROM raw.interactions)
        WHERE {key} IS NOT NULL GROUP BY {key}""",
    )

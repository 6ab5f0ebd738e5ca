"""What a source of the dataset is, and what each of them hands over: its rows, by its own ids, and what it could not read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from xrec.data.findings import Finding
from xrec.storage import Location


@dataclass(frozen=True)
class SourceData:
    """Rows of a source. All ids and texts are strings; `file` and `line` tell where a row stood.

    users: user_id, profile; ids are unique.
    items: item_id, title, profile; ids are unique.
    interactions: user_id, item_id, split (null: by hash), file, line; may name unknown ids and repeat pairs.
    explanations: user_id, item_id, explanation, split (null: by hash), file, line; likewise.
    planted: user_id, item_id, aspect, aspects (list of strings); only of the sample.
    findings: the rows that were left out so far.
    num_rows: rows of each file, those left out included, in the order of reading.
    missing_tables: the tables that the source does not have: without users or items, all ids are those of the pairs.
    """

    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    explanations: pa.Table
    findings: tuple[Finding, ...]
    num_rows: Mapping[str, int]
    planted: pa.Table | None = None
    missing_tables: tuple[str, ...] = ()


def _no_files(folder: Location) -> Mapping[str, Location]:
    return {}


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from: which files of a folder, and how their content is read.

    name: what messages call it.
    read: from the content of the files, by name, to the raw rows.
    folder: the folder of the files; None for generated data, which has no files.
    find_files: the files of that folder by name; raises DataError if one is missing.
    """

    name: str
    read: Callable[[Mapping[str, bytes]], SourceData]
    folder: Location | None = None
    find_files: Callable[[Location], Mapping[str, Location]] = _no_files

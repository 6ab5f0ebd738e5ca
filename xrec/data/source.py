"""A source of the dataset, and what each source hands over: rows with the ids of the source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from xrec.data.findings import Finding
from xrec.storage import Location, content_hash


@dataclass(frozen=True)
class SourceData:
    """Rows of a source. All ids and texts are strings; `file` and `line` tell where a row stood.

    users: user_id, profile; ids are unique.
    items: item_id, title, profile; ids are unique.
    interactions: user_id, item_id, split, file, line. Ids may be unknown, pairs may be repeated,
        and a pair whose split is null gets the split of its hash.
    explanations: user_id, item_id, explanation, split, file, line; the same holds. It may have a
        rating too, a number as a string, null where none is known.
    planted: user_id, item_id, aspect, aspects (list of strings); the sample's only.
    aspects: user_id, item_id, split, aspect, opinion, sentiment, each aspect of a pair once; a
        split that is null is that of the pair's hash. None where the source knows no aspects.
    low_rated_aspects: the same of reviews that are no interactions, since their ratings are low.
    findings: the rows that were left out so far.
    num_rows: the number of rows of each file, with those left out, in the order of reading.
    missing_tables: the tables that the source does not have. Without users or items, their ids are
        those of the pairs.
    """

    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    explanations: pa.Table
    findings: tuple[Finding, ...]
    num_rows: Mapping[str, int]
    planted: pa.Table | None = None
    aspects: pa.Table | None = None
    low_rated_aspects: pa.Table | None = None
    missing_tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from: its files, and how their content is read.

    name: what messages call it.
    read: turns the content of the files, by file name, into rows.
    find_files: gives the files by name; raises DataError if one is missing.
    inputs: fingerprints of artifacts that the rows come from, by kind.
    """

    name: str
    read: Callable[[Mapping[str, bytes]], SourceData]
    find_files: Callable[[], Mapping[str, Location]] = dict
    inputs: Mapping[str, str] = field(default_factory=dict)

    def contents(self) -> dict[str, bytes]:
        """The content of the files by name."""
        return {name: location.read_bytes() for name, location in self.find_files().items()}

    def hashes(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        """What a dataset of it depends on: its artifacts, and a hash of each file's content."""
        return {**self.inputs, **{name: content_hash(data) for name, data in contents.items()}}

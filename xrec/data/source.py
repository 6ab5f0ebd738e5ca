"""A source of the dataset, and what it hands over: rows with its ids, and the rows left out.

A row that is left out is a finding, with its file, line and reason. Findings are counted and
written to `rejected.parquet`; too many of them in one file are an error.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from xrec.errors import DataError
from xrec.schemas import REJECTED
from xrec.storage import Location, content_hash

_TEXT_HEAD = 120


@dataclass(frozen=True)
class Finding:
    """One row that is left out.

    `line` counts from 1, and counts a CSV header; in Parquet it is the row's number.
    """

    file: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class SourceData:
    """Rows of a source. All ids and texts are strings; `file` and `line` tell where a row stood.

    users: user_id, profile; ids are unique.
    items: item_id, title, profile; ids are unique.
    interactions: user_id, item_id, split, file, line. Ids may be unknown, pairs may be repeated,
        and a pair whose split is null gets the split of its hash.
    explanations: user_id, item_id, explanation, split, file, line; the same holds.
    training_profiles: user_id, item_id, user_profile, item_profile of explained training pairs, as
        if the pair's own review had not been written; None where profiles come as they are.
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
    training_profiles: pa.Table | None = None
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


def rejected_table(findings: Iterable[Finding]) -> pa.Table:
    """The findings in the schema REJECTED, in their order; texts are cut to their beginning."""
    rows = [{**vars(finding), "text": _head(finding.text)} for finding in findings]
    return pa.Table.from_pylist(rows, schema=REJECTED)


def count_reasons(findings: Iterable[Finding]) -> dict[str, int]:
    """The number of findings by "file: reason", the most frequent first."""
    return dict(Counter(f"{finding.file}: {finding.reason}" for finding in findings).most_common())


def check_rejected_share(
    findings: Sequence[Finding], num_rows: Mapping[str, int], max_share: float, folder: str
) -> None:
    """Raise DataError if more than `max_share` of the rows of any file are rejected.

    `num_rows` holds the number of rows of each file, with those rejected, in the order of reading.
    The first file over the threshold is reported, since its gaps often spoil the later ones.
    """
    for file, total in num_rows.items():
        of_file = [finding for finding in findings if finding.file == file]
        if len(of_file) > max_share * total:
            raise DataError(_over_threshold(of_file, total, max_share, folder))


def _head(text: str) -> str:
    """The beginning of `text`, valid as UTF-8."""
    return text[:_TEXT_HEAD].encode("utf-8", errors="replace").decode("utf-8")


def _over_threshold(
    findings: Sequence[Finding], num_rows: int, max_share: float, folder: str
) -> str:
    first = min(findings, key=lambda finding: finding.line)
    reasons = Counter(finding.reason for finding in findings).most_common()
    return (
        f"{folder.rstrip('/')}/{first.file}: {len(findings)} of {num_rows} rows are unusable, "
        f"at most a share of {max_share:g} is allowed\n"
        f"  first: line {first.line}: {first.reason}: {_head(first.text)!r}\n"
        + "".join(f"  {count} x {reason}\n" for reason, count in reasons)
        + "mend the file, or raise max_rejected_share to leave such rows out"
    )

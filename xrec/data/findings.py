"""Rows that are left out: findings, each with its file, line, and reason.

Findings are counted and written to `rejected.parquet`; too many in one file are an error.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import pyarrow as pa

from xrec.errors import DataError
from xrec.schemas import REJECTED

_TEXT_HEAD = 120
_line = attrgetter("line")


@dataclass(frozen=True)
class Finding:
    """One row that is left out.

    `line` counts from 1, including a CSV header; in Parquet it is the row number.
    """

    file: str
    line: int
    reason: str
    text: str


def rejected_table(findings: Iterable[Finding]) -> pa.Table:
    """Return the findings in the schema REJECTED, in order, with shortened texts."""
    rows = [{**vars(finding), "text": _head(finding.text)} for finding in findings]
    return pa.Table.from_pylist(rows, schema=REJECTED)


@dataclass(frozen=True)
class Rejected:
    """The number of rows of a file (or of all files of a table) left out for one reason."""

    file: str
    reason: str
    count: int
    first: Finding


def count_findings(findings: Iterable[Finding]) -> list[Rejected]:
    """Return the number of findings for each file and reason."""
    groups = defaultdict[tuple[str, str], list[Finding]](list)
    for finding in findings:
        groups[finding.file, finding.reason].append(finding)
    return [Rejected(*key, len(group), min(group, key=_line)) for key, group in groups.items()]


def count_reasons(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Return the number of rows by "file: reason", most frequent first."""
    ordered = sorted(rejected, key=lambda each: (-each.count, each.file, each.reason))
    return {f"{each.file}: {each.reason}": each.count for each in ordered}


def check_rejected_share(
    rejected: Sequence[Rejected], num_rows: Mapping[str, int], max_share: float, folder: str
) -> None:
    """Raise DataError if more than `max_share` of the rows of any file are rejected.

    `num_rows` has the number of rows of each file, including rejected ones, in reading order. Only
    the first file over the threshold is reported, because its gaps often break the later ones.
    """
    for file, total in num_rows.items():
        of_file = [each for each in rejected if each.file == file]
        count = sum(each.count for each in of_file)
        if count > max_share * total:
            first = min((each.first for each in of_file), key=_line)
            reasons = count_reasons(of_file).items()
            raise DataError(
                f"{folder.rstrip('/')}/{file}: {count} of {total} rows are unusable; the "
                f"maximum share is {max_share:g}\n"
                f"  first: {first.file}, line {first.line}: {first.reason}: "
                f"{_head(first.text)!r}\n"
                + "".join(f"  {num} x {why.removeprefix(f'{file}: ')}\n" for why, num in reasons)
                + "fix the file, or raise max_rejected_share to leave such rows out",
                code="too_many_rejected",
                key=file,
                saw=count,
            )


def _head(text: str) -> str:
    """Return the beginning of a text, as valid UTF-8."""
    return text[:_TEXT_HEAD].encode("utf-8", errors="replace").decode("utf-8")

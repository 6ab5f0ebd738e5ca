"""Rows that are left out, each with its file, line and reason.

A finding is counted and written to `rejected.parquet`; too many of them in one file are an error.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from xrec.errors import DataError
from xrec.schemas import REJECTED

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


def rejected_table(findings: Iterable[Finding]) -> pa.Table:
    """The findings in the schema REJECTED, in their order; texts are cut to their beginning."""
    rows = [
        {"file": f.file, "line": f.line, "reason": f.reason, "text": text_head(f.text)}
        for f in findings
    ]
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


def text_head(text: str) -> str:
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
        f"  first: line {first.line}: {first.reason}: {text_head(first.text)!r}\n"
        + "".join(f"  {count} x {reason}\n" for reason, count in reasons)
        + "mend the file, or raise max_rejected_share to leave such rows out"
    )

"""Scores of judges that others published, for texts that they published too."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from xrec.config.shared import StorageConfig
from xrec.data.columns import parse_id, parse_text
from xrec.data.rows import read_rows
from xrec.errors import DataError
from xrec.lab.judge.agreement import JUDGE_SCORES
from xrec.storage import open_location


def read_judge_scores(uri: str, storage: StorageConfig | None = None) -> pa.Table:
    """The table of scores at `uri` (schema JUDGE_SCORES): Parquet, CSV or JSON Lines.

    With FILE.jsonl#COLUMN the scores of each line stand below that column, by judge
    (`published_scores`). Raises DataError for a missing column or a row that is no score.
    """
    place, _, column = uri.partition("#")
    data = open_location(place, storage).read_bytes()
    if column:
        return published_scores(_lines(place, data), column)
    columns = {"user_id": parse_id, "item_id": parse_id, "judge": parse_text, "score": _parse_score}
    rows = read_rows(place, data, columns)
    if rows.findings:
        first = rows.findings[0]
        raise DataError(
            f"{place}: {len(rows.findings)} of {rows.num_rows} rows are no scores, the first in "
            f"line {first.line}: {first.reason} ({first.text}); mend the file"
        )
    scores = rows.table.select(JUDGE_SCORES.names)
    numbers = pa.array([float(score) for score in scores["score"].to_pylist()], pa.float64())
    place_of_score = scores.schema.get_field_index("score")
    return scores.set_column(place_of_score, "score", numbers).cast(JUDGE_SCORES)


def _lines(place: str, data: bytes) -> list[dict[str, object]]:
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}, line {number}: no JSON ({error}); mend the file") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}, line {number}: {type(row).__name__}, expected an object")
        rows.append(row)
    return rows


def published_scores(rows: Sequence[Mapping[str, object]], column: str) -> pa.Table:
    """Scores of rows such as those of `peer_texts.jsonl` (schema JUDGE_SCORES).

    Each row has user_id and item_id, or uid and iid, and under `column` the scores by judge: a
    number or a list of them. Rows whose `column` is null are left out. Raises DataError for a row
    without these.
    """
    return pa.Table.from_pylist(
        [
            {"user_id": user, "item_id": item, "judge": judge, "score": score}
            for number, row in enumerate(rows, start=1)
            for user, item, judge, score in _published(number, row, column)
        ],
        schema=JUDGE_SCORES,
    )


def _published(
    number: int, row: Mapping[str, object], column: str
) -> Iterator[tuple[str, str, str, float]]:
    ids = next(
        (ids for ids in (("user_id", "item_id"), ("uid", "iid")) if set(ids) <= set(row)), ()
    )
    found = row.get(column, ())
    if found is None:
        return
    if not ids or not isinstance(found, Mapping):
        raise DataError(
            f"row {number} has {', '.join(row)}; expected user_id and item_id, or uid and iid, and "
            f"under {column!r} an object of scores by judge"
        )
    user, item = (str(row[name]) for name in ids)
    for judge, scores in found.items():
        several = isinstance(scores, Sequence) and not isinstance(scores, str)
        for score in scores if several else [scores]:
            try:
                yield user, item, str(judge), float(_parse_score(score))
            except ValueError as error:
                raise DataError(
                    f"row {number}, {column}.{judge}: {score!r} {error}; mend the file"
                ) from error


def _parse_score(value: object) -> str:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a number")
    try:
        score = float(value)
    except ValueError:
        raise ValueError("must be a number") from None
    if not math.isfinite(score):
        raise ValueError("must be a finite number")
    return str(score)

"""The files of answers that people saved, read with the key: the page's JSON, or the filled CSV."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from xrec.config.shared import StorageConfig
from xrec.errors import DataError
from xrec.lab.blind.sheet import HIGHEST, JUDGE, LOWEST, PAIR, PLACE, SHEET, Sheet
from xrec.storage import open_location

# A row a person, text and question.
RATINGS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "judge": pa.string(),
            "user_id": pa.string(),
            "item_id": pa.string(),
            "contestant": pa.string(),
            "question": pa.string(),
            "rating": pa.int32(),
        }.items()
    ]
)
Row = Mapping[str, Any]


def read_answers(uris: Sequence[str], sheet: Sheet, storage: StorageConfig) -> pa.Table:
    """All ratings in the files, in the schema RATINGS.

    Raises DataError, which names the file and the row, for an answer to another sheet, without a
    judge, to a text or with a rating that is not there, and for a text that one judge rated twice.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, int, int], str] = {}
    for uri in uris:
        for place, answer in _read(uri, open_location(uri, storage).read_bytes()):
            where = f"{uri}, {place}"
            found = _ratings(answer, sheet, where)
            if found:
                text = (str(answer[JUDGE]).strip(), int(answer[PAIR]), int(answer[PLACE]))
                if text in seen:
                    raise DataError(
                        f"{where}: {text[0]!r} has answered about text {text[2]} of pair {text[1]} "
                        f"before, in {seen[text]}; give each judge's answers once"
                    )
                seen[text] = where
            rows += found
    if not rows:
        raise DataError(f"{', '.join(uris)}: not one answer; fill in the sheet, and save it")
    return pa.Table.from_pylist(rows, RATINGS)


def answered_sheet(uri: str, storage: StorageConfig) -> str:
    """The fingerprint of the sheet that a file answers; raises DataError if it names none."""
    for _, answer in _read(uri, open_location(uri, storage).read_bytes()):
        if answer.get(SHEET):
            return str(answer[SHEET])
    raise DataError(f"{uri}: not one answer, so it names no sheet; fill it in, and save it")


def _read(uri: str, data: bytes) -> Iterator[tuple[str, Row]]:
    """Each answer with its place in the file."""
    try:
        text = data.decode("utf-8-sig")
        if uri.lower().endswith(".csv"):
            table = csv.DictReader(io.StringIO(text), delimiter=_delimiter(text))
            for number, row in enumerate(table, start=2):
                yield f"line {number}", row
            return
        saved = json.loads(text)
        about = {SHEET: saved["sheet"], JUDGE: saved["judge"]}
        for number, answer in enumerate(saved["answers"], start=1):
            yield f"answer {number}", {**about, **answer}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"{uri}: neither what the page saves nor the sheet's CSV ({type(error).__name__}: "
            f"{error}); give the files as they were saved"
        ) from error


def _delimiter(text: str) -> str:
    """What separates the columns: a spreadsheet saves what its country is used to."""
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _ratings(answer: Row, sheet: Sheet, where: str) -> list[dict[str, Any]]:
    """The ratings of one text; none if no question about it is answered."""
    given = {name: answer[name] for name in sheet.questions if answer.get(name) not in (None, "")}
    if not given:
        return []
    if answer.get(SHEET) != sheet.fingerprint:
        raise DataError(
            f"{where}: answers sheet {answer.get(SHEET)!r}, and the key is of "
            f"{sheet.fingerprint!r}; give answers of this sheet, or the comparison that made theirs"
        )
    judge = str(answer.get(JUDGE) or "").strip()
    if not judge:
        raise DataError(f"{where}: no judge; give a name in the column {JUDGE!r}")
    pair = _number(answer.get(PAIR), len(sheet.pairs), PAIR, where)
    of_pair = sheet.pairs[pair - 1]
    place = _number(answer.get(PLACE), len(of_pair.texts), PLACE, where)
    about = {
        "judge": judge,
        "user_id": of_pair.user_id,
        "item_id": of_pair.item_id,
        "contestant": of_pair.contestants[place - 1],
    }
    return [
        {**about, "question": name, "rating": _number(value, HIGHEST, name, where)}
        for name, value in given.items()
    ]


def _number(value: Any, most: int, name: str, where: str) -> int:
    try:
        number = int(str(value).strip())
    except ValueError:
        number = 0
    if not LOWEST <= number <= most:
        raise DataError(f"{where}: {name} is {value!r}, expected a whole number from 1 to {most}")
    return number

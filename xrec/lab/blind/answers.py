"""The files of answers that people saved on the page, read with the key."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from xrec.config.shared import StorageConfig
from xrec.errors import DataError
from xrec.lab.blind.sheet import HIGHEST, LOWEST, Sheet
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


def read_answers(uris: Sequence[str], sheet: Sheet, storage: StorageConfig) -> pa.Table:
    """All ratings in the files, in the schema RATINGS.

    Raises DataError, which names the file and the answer, for answers to another sheet, without a
    judge, to a text or with a rating that is not there, and for a judge with two files.
    """
    rows: list[dict[str, Any]] = []
    judges: dict[str, str] = {}
    for uri in uris:
        saved = _read(uri, storage)
        if saved["sheet"] != sheet.fingerprint:
            raise DataError(
                f"{uri}: answers sheet {saved['sheet']!r}, and the key is of "
                f"{sheet.fingerprint!r}; give answers of this sheet, or the comparison that made "
                "theirs"
            )
        judge = str(saved["judge"] or "").strip()
        if not judge or judge in judges:
            given = f"{judge!r}, who answers in {judges[judge]} too" if judge else "no judge"
            raise DataError(f"{uri}: {given}; give each judge's answers once, under a name")
        judges[judge] = uri
        for number, answer in enumerate(saved["answers"], start=1):
            of_text = _ratings(answer, sheet, f"{uri}, answer {number}")
            rows += [{"judge": judge, **rating} for rating in of_text]
    if not rows:
        raise DataError(f"{', '.join(uris)}: not one answer; fill in the sheet, and save it")
    return pa.Table.from_pylist(rows, RATINGS)


def answered_sheet(uri: str, storage: StorageConfig) -> str:
    """The fingerprint of the sheet that a file answers; raises DataError for another file."""
    return str(_read(uri, storage)["sheet"])


def _read(uri: str, storage: StorageConfig) -> Mapping[str, Any]:
    try:
        saved = json.loads(open_location(uri, storage).read_bytes())
        return {name: saved[name] for name in ("sheet", "judge", "answers")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{uri}: not what the page saves ({type(error).__name__}: {error}); give the files as "
            "they were saved"
        ) from error


def _ratings(answer: Mapping[str, Any], sheet: Sheet, where: str) -> list[dict[str, Any]]:
    """The ratings of one text, one for each question that is answered."""
    given = {name: answer[name] for name in sheet.questions if answer.get(name) not in (None, "")}
    of_pair = sheet.pairs[_number(answer.get("pair"), len(sheet.pairs), "pair", where) - 1]
    place = _number(answer.get("place"), len(of_pair.texts), "place", where)
    about = {
        "user_id": of_pair.user_id,
        "item_id": of_pair.item_id,
        "contestant": of_pair.contestants[place - 1],
    }
    return [
        {**about, "question": name, "rating": _number(value, HIGHEST, name, where)}
        for name, value in given.items()
    ]


def _number(value: Any, most: int, name: str, where: str) -> int:
    if not isinstance(value, int) or not LOWEST <= value <= most:
        raise DataError(f"{where}: {name} is {value!r}, expected a whole number from 1 to {most}")
    return value

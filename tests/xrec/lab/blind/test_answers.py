"""Answers that people saved: read with the key, and refused where they do not fit it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from xrec.config.shared import StorageConfig
from xrec.errors import DataError
from xrec.lab.blind.answers import answered_sheet, read_answers
from xrec.lab.blind.sheet import Sheet, SheetPair, table_of

STORAGE = StorageConfig()
SHEET = Sheet(
    (
        SheetPair("u1", "i1", "", "", "", "", ("one", "two"), ("ours", "nearest")),
        SheetPair("u2", "i2", "", "", "", "", ("three", "four"), ("nearest", "ours")),
    ),
    {"true": "Is it true?", "good": "Is it good?"},
)


def saved(path: Path, answers: list[dict[str, Any]], **changes: Any) -> str:
    """What the page saves."""
    content = {"sheet": SHEET.fingerprint, "judge": "Anna", "answers": answers, **changes}
    path.write_text(json.dumps(content))
    return str(path)


def ratings(*uris: str) -> set[tuple[str, str, str, str, int]]:
    rows = read_answers(uris, SHEET, STORAGE).to_pylist()
    return {
        (row["judge"], row["user_id"], row["contestant"], row["question"], row["rating"])
        for row in rows
    }


def test_answers_of_the_page_are_ratings_of_the_contestant_at_the_place(tmp_path: Path) -> None:
    uri = saved(
        tmp_path / "anna.json",
        [{"pair": 1, "place": 2, "true": 4, "good": 5}, {"pair": 2, "place": 2, "true": 1}],
    )
    assert ratings(uri) == {
        ("Anna", "u1", "nearest", "true", 4),
        ("Anna", "u1", "nearest", "good", 5),
        ("Anna", "u2", "ours", "true", 1),
    }
    assert answered_sheet(uri, STORAGE) == SHEET.fingerprint


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_filled_in_table_gives_the_same_as_the_page(tmp_path: Path, delimiter: str) -> None:
    rows = list(csv.DictReader(io.StringIO(table_of(SHEET))))
    rows[1] |= {"judge": "Ben", "true": "4", "good": " 5 "}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path = tmp_path / "ben.csv"
    path.write_text("\ufeff" + stream.getvalue())  # as a spreadsheet saves it
    page = saved(
        tmp_path / "ben.json", [{"pair": 1, "place": 2, "true": 4, "good": 5}], judge="Ben"
    )
    assert ratings(str(path)) == ratings(page)


def test_answers_of_several_judges_come_together(tmp_path: Path) -> None:
    answers = [{"pair": 1, "place": 1, "true": 3}]
    uris = [saved(tmp_path / f"{name}.json", answers, judge=name) for name in ("Anna", "Ben")]
    assert {each[0] for each in ratings(*uris)} == {"Anna", "Ben"}


@pytest.mark.parametrize(
    ("answer", "changes", "message"),
    [
        ({"pair": 1, "place": 1, "true": 6}, {}, "true is 6, expected a whole number from 1 to 5"),
        ({"pair": 1, "place": 1, "true": "x"}, {}, "true is 'x'"),
        ({"pair": 3, "place": 1, "true": 1}, {}, "pair is 3, expected .* from 1 to 2"),
        ({"pair": 1, "place": 0, "true": 1}, {}, "place is 0"),
        ({"pair": 1, "place": 1, "true": 1}, {"judge": " "}, "no judge"),
        ({"pair": 1, "place": 1, "true": 1}, {"sheet": "other"}, "answers sheet 'other'"),
        ({"pair": 1, "place": 1}, {}, "not one answer"),
    ],
)
def test_answer_that_does_not_fit_is_refused_with_its_file(
    tmp_path: Path, answer: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        ratings(saved(tmp_path / "anna.json", [answer], **changes))
    assert "anna.json" in str(error.value)


def test_a_text_that_one_judge_answered_twice_is_refused(tmp_path: Path) -> None:
    answers = [{"pair": 1, "place": 1, "true": 3}]
    uris = [saved(tmp_path / f"{number}.json", answers) for number in (1, 2)]
    with pytest.raises(DataError, match=r"'Anna' has answered about text 1 of pair 1 before, in"):
        ratings(*uris)


def test_table_that_no_spreadsheet_wrote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(table_of(SHEET) + "x" * (csv.field_size_limit() + 1))
    with pytest.raises(DataError, match=r"long.csv: neither what the page saves nor"):
        ratings(str(path))


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"hello": 1}')
    with pytest.raises(DataError, match=r"notes.json: neither what the page saves nor"):
        ratings(str(path))

"""Answers that people saved: read with the key, or refused where they do not fit it."""

import json
from pathlib import Path
from typing import Any

import pytest

from xrec.config.shared import StorageConfig
from xrec.errors import DataError
from xrec.lab.blind.sheet import Sheet, SheetPair, answered_sheet, read_answers

STORAGE = StorageConfig()
SHEET = Sheet(
    (
        SheetPair("u1", "i1", "", "", "", ("one", "two"), ("ours", "nearest")),
        SheetPair("u2", "i2", "", "", "", ("three", "four"), ("nearest", "ours")),
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
        (row["judge"], row["user_id"], row["entry"], row["question"], row["rating"]) for row in rows
    }


def test_answers_of_the_page_are_ratings_of_the_entry_at_the_place(tmp_path: Path) -> None:
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


def test_a_judge_with_two_files_is_refused(tmp_path: Path) -> None:
    answers = [{"pair": 1, "place": 1, "true": 3}]
    uris = [saved(tmp_path / f"{number}.json", answers) for number in (1, 2)]
    with pytest.raises(DataError, match=r"2.json: 'Anna', who answers in .*1.json too"):
        ratings(*uris)


@pytest.mark.parametrize("text", ['{"hello": 1}', "[1]", "judge,pair"])
def test_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"notes.json: not what the page saves"):
        ratings(str(path))

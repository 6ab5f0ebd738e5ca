"""Published scores in all their forms, and what is said of broken ones."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.errors import DataError
from xrec.lab.judge import JUDGE_SCORES, read_judge_scores

ROWS = [
    {"user_id": "1", "item_id": "a", "judge": "gemma2", "score": 79.0},
    {"user_id": "2", "item_id": "a", "judge": "llama", "score": 20.5},
]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_scores_are_read_from_any_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scores.{ending}"
    if ending == "csv":
        lines = ["user_id,item_id,judge,score", "1,a,gemma2,79", "2,a,llama,20.5"]
        path.write_text("\n".join(lines) + "\n")
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    found = read_judge_scores(str(path))
    assert found.schema.equals(JUDGE_SCORES)
    assert found.to_pylist() == ROWS


def test_scores_by_judge_are_read_from_a_column_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "peer_texts.jsonl"
    lines = [
        {"uid": 1, "iid": 7, "text": "a", "scores": {"gemma2": [79, 88], "llama": 20}},
        {"uid": 2, "iid": 7, "text": None, "scores": None},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_judge_scores(f"{path}#scores").to_pylist() == [
        {"user_id": "1", "item_id": "7", "judge": judge, "score": score}
        for judge, score in (("gemma2", 79.0), ("gemma2", 88.0), ("llama", 20.0))
    ]
    with pytest.raises(DataError, match="under 'marks' an object of scores by judge"):
        read_judge_scores(f"{path}#marks")


@pytest.mark.parametrize("score", ["high", "nan", ""])
def test_scores_that_are_no_numbers_are_refused_with_their_line(tmp_path: Path, score: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"user_id,item_id,judge,score\n1,a,gemma2,79\n2,a,llama,{score}\n")
    with pytest.raises(DataError, match="1 of 2 rows are no scores, the first in line 3"):
        read_judge_scores(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"uid": 1, "iid": 7, "scores": {"gemma2": "n/a"}}', r"row 1, scores\.gemma2: 'n/a' must"),
        ('{"uid": 1, "iid": 7, "scores": {"gemma2": [79, true]}}', "gemma2: True must be a number"),
        ('{"uid": 1,', "line 1: no JSON"),
        ("[1]", "line 1: list, expected an object"),
    ],
)
def test_lines_that_hold_no_scores_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "peer_texts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_judge_scores(f"{path}#scores")


def test_score_in_quotes_is_one_score(tmp_path: Path) -> None:
    path = tmp_path / "peer_texts.jsonl"
    path.write_text('{"uid": 1, "iid": 7, "scores": {"gemma2": "87"}}\n\n')
    assert read_judge_scores(f"{path}#scores")["score"].to_pylist() == [87.0]


def test_scores_without_a_judge_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("user_id,item_id,score\n1,a,79\n")
    with pytest.raises(DataError, match="judge"):
        read_judge_scores(str(path))

"""The benchmark of personal texts: what is compared with what, its figures, and its files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from typer.testing import CliRunner

from benchmarks.personal import app
from benchmarks.personal_data import (
    MATCHED,
    NDCG_GAIN,
    RECALL,
    Pairs,
    Yardstick,
    matched,
    read_texts,
)
from benchmarks.personal_report import Measure, differences, figures, wide
from xrec import schemas
from xrec.checks import AspectNames
from xrec.data import write_dataset
from xrec.data.dataset import HeldOutPair
from xrec.errors import DataError
from xrec.storage import open_location

NAN = float("nan")
SPECIFICITY, SPECIFICITY_IN_ITEM = "Specificity", "Specificity within the item"
REFERENCES = ("quiet garden", "cheap beer", "loud music", "fresh bread")
PAIRS = Pairs(
    tuple(
        HeldOutPair(user, item, index, int(item == "pub"), reference)
        for index, (user, item, reference) in enumerate(
            zip(("ann", "ben", "cid", "dan"), ("inn", "inn", "pub", "inn"), REFERENCES, strict=True)
        )
    ),
    titles=("Inn", "Inn", "Pub", "Inn"),
    profiles=("garden", "garden", "music", "garden"),
)


def test_couples_are_all_two_pairs_of_one_item():
    assert PAIRS.couples.tolist() == [[0, 1], [0, 3], [1, 3]]
    assert PAIRS.items_of(PAIRS.couples) == ["inn"] * 3


def test_specificity_is_that_of_the_lab_and_left_out_where_there_is_no_text():
    texts = ("loud music, quiet garden, cheap beer", "fresh bread", "music", None)
    found = Yardstick(PAIRS, None).of_pairs(texts)
    # Ann's text is as near to three references and not to "fresh bread"; Ben's is Dan's reference.
    assert found[SPECIFICITY] == pytest.approx([(0.5 + 0.5 + 1) / 3, 1 / 3, 1, NAN], nan_ok=True)
    assert found[SPECIFICITY_IN_ITEM] == pytest.approx([0.75, 0.25, NAN, NAN], nan_ok=True)


def test_couples_are_matched_by_the_larger_sum_with_ties_half_and_missing_left_out():
    similarities = np.array(
        [[0.6, 0.5, 0.0, 0.2], [0.2, 0.2, 0, 0.3], [0, 0, 0, 0], [NAN, NAN, NAN, NAN]]
    )
    couples = np.array([[0, 1], [1, 0], [0, 3]])
    assert matched(similarities, couples) == pytest.approx([1, 1, NAN], nan_ok=True)
    assert matched(np.array([[0.5, 0.5], [0.2, 0.2]]), couples[:1]).tolist() == [0.5]
    assert matched(np.array([[0.1, 0.5], [0.2, 0.2]]), couples[:1]).tolist() == [0]


def test_measured_couples_gain_what_texts_name_of_their_own_reference_above_the_others():
    finder = AspectNames(["garden", "beer", "bread"])
    texts = ("garden and bread", "bread", "", None)
    # Ann's names hers first (1) and not Ben's (0); Ben's names neither. Dan has no text.
    found = Yardstick(PAIRS, finder).of_couples(texts)[NDCG_GAIN]
    assert found == pytest.approx([0.5, NAN, NAN], nan_ok=True)


def test_measure_averages_the_seeds_that_have_a_value_and_draws_whole_groups():
    measure = Measure(np.array([[0.0, 1, NAN, NAN], [1, 1, NAN, 0]]), ["a", "a", "b", "c"])
    record = measure.record()
    assert record["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert record["count"] == 3
    assert record["by_seed"] == [0.5, pytest.approx(2 / 3)]
    # Users a and c: a draw has a twice (0.75), c twice (0), or both.
    assert (record["low"], record["high"]) == (0, 0.75)


def test_difference_of_two_measures_is_of_the_pairs_that_both_have():
    users = ["a", "b", "c"]
    own = Measure(np.array([[1, 1, NAN], [1, 0, 1]]), users)
    other = Measure(np.array([[0, NAN, 1]]), users)
    measures = {"ours": {"m": own}, "theirs": {"m": other}}
    (row,) = differences(measures, ["theirs"])
    assert row["contestant"] == "ours minus theirs"
    assert (row["value"], row["count"]) == (0.5, 2)  # a: 1, c: 0 of the second seed
    assert row["by_seed"] == [1, 0.5]
    shown = wide(figures(measures))[1]
    assert shown["m"].startswith("0.5000 (")
    assert shown["count"] == 2


def test_figure_without_values_has_no_interval_and_large_values_few_digits():
    assert Measure(np.full((2, 3), NAN), list("abc")).record()["value"] is None
    record = Measure(np.array([[200.0], [220.0]]), ["a"]).record()
    assert (record["value"], record["by_seed"]) == (210, [200, 220])
    assert wide([{"contestant": "x", "measure": "m", **record}])[0]["m"] == "210; 200, 220"
    record = Measure(np.array([[-1e-6], [14.96]]), ["a"]).record()
    assert wide([{"contestant": "x", "measure": "m", **record}])[0]["m"] == "7.4800; 0.0000, 15.0"


@pytest.fixture
def dataset(tmp_path):
    """Write a dataset of two items and four explained test pairs; ids are "1", "2", ..."""
    location = open_location(str(tmp_path / "dataset"))
    users = {"user_id": list("1234"), "user_index": range(4), "profile": ["likes it"] * 4}
    items = {
        "item_id": list("12"),
        "item_index": range(2),
        "title": ["Inn", "Pub"],
        "profile": ["with a garden", "with music"],
    }
    explained = {
        "user_index": [0, 1, 2, 3],
        "item_index": [0, 0, 1, 0],
        "explanation": list(REFERENCES),
        "split": ["test"] * 3 + ["validation"],
    }
    pairs = {name: explained[name] for name in ("user_index", "item_index", "split")}
    tables = {
        "users": pa.table(users, schema=schemas.USERS),
        "items": pa.table(items, schema=schemas.ITEMS),
        "interactions": pa.table(pairs, schema=schemas.INTERACTIONS),
        "explanations": pa.table(explained, schema=schemas.EXPLANATIONS),
    }
    rejected = schemas.REJECTED.empty_table()
    write_dataset(location, tables, rejected, config={}, inputs={}, metrics={})
    return str(tmp_path / "dataset")


def _lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_run_of_json_lines_takes_the_column_named_and_leaves_out_null(tmp_path):
    rows = [
        {"uid": "ben", "iid": "inn", "theirs": "beer", "ours": None},
        {"uid": "ann", "iid": "inn", "theirs": "garden", "ours": "a garden"},
    ]
    path = _lines(tmp_path / "peers.jsonl", rows)
    assert read_texts(f"{path}#theirs", PAIRS) == ("garden", "beer", None, None)
    assert read_texts(f"{path}#ours", PAIRS) == ("a garden", None, None, None)
    with pytest.raises(
        DataError, match=r"line 1: columns uid, iid, theirs, ours; expected .* text"
    ):
        read_texts(path, PAIRS)


def test_run_of_explanations_takes_the_rows_of_the_pairs(monkeypatch):
    rows = [("ben", "inn", "beer"), ("ben", "pub", "?"), ("dan", "inn", "bread")]
    names = ("user_id", "item_id", "explanation")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    tables = {"s3://bucket/texts": pads.dataset(table)}
    monkeypatch.setattr("benchmarks.personal_data.read", tables.__getitem__)
    assert read_texts("s3://bucket/texts", PAIRS) == (None, "beer", None, "bread")


def test_texts_command_writes_the_figures_and_differences_of_each_contestant(dataset, tmp_path):
    row = [{"uid": 1, "iid": 1, "text": "a garden"}, {"uid": 2, "iid": 1, "text": "beer"}]
    own = _lines(tmp_path / "own.jsonl", row)
    (tmp_path / "aspects.txt").write_text("garden\nbeer\n")
    arguments = ["texts", dataset, "--contestant", f"ours={own}"]
    options = ["--vocabulary", str(tmp_path / "aspects.txt"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    tables = json.loads((tmp_path / "out/texts.json").read_text())
    found = {(row["contestant"], row["measure"]): row["value"] for row in tables["figures"]}
    assert found["ours", SPECIFICITY] == found["ours", MATCHED] == found["ours", RECALL] == 1
    assert found["references", SPECIFICITY_IN_ITEM] == 1
    assert "ours minus title and profile" in (tmp_path / "out/texts.md").read_text()

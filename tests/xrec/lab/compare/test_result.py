"""The figures of a comparison from given scores and texts."""

import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.errors import raises
from tests.world.shop import write_json_lines
from tests.world.town import dataset_of, explained, held_out
from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.config import ElsewhereConfig, StorageConfig
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.lab.compare.copies import nearest_texts, read_elsewhere
from xrec.lab.compare.entries import entries_of
from xrec.lab.compare.figures import MetricRow, Run, metric_rows
from xrec.lab.compare.result import Result, result_of
from xrec.lab.compare.table import markdown_page
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.measures.measures import corpus_scores
from xrec.storage import Manifest

PAIRS = held_out(*((user, item) for user in range(3) for item in range(3)))
DATASET = dataset_of()


def scored(values: list[float]) -> Run:
    texts = [f"text {value}" for value in values]
    users, items = zip(*(pair.ids for pair in PAIRS), strict=True)
    ids = {"user_id": users, "item_id": items}
    table = pa.table({**ids, "text": texts, "coverage": [1.0] * len(PAIRS), "rouge_l": values})
    return Run(table, corpus_scores(PAIRS, texts))


def result(make_config: MakeConfig, runs: dict[str, list[list[float]]], **changes: Any) -> Result:
    """Return the result of entries whose seeds have these values of ROUGE-L by pair."""
    seeds = list(range(max(map(len, runs.values()))))
    config = make_config(entries=list(runs), seeds=seeds, **changes)
    all_values = {name: iter(values) for name, values in runs.items()}
    entries = {entry: next(all_values[entry.name]) for entry in entries_of(config)}
    costs = {"training_seconds": 7.0, "num_trained_parameters": 5}
    made = {
        entry: EntryTexts({}, "f", {"empty_text": 1}, costs if entry.seed is not None else {})
        for entry in entries
    }
    all_scored = {entry: scored(values) for entry, values in entries.items()}
    return result_of(config, DATASET, made, all_scored)


FLAT = [0.5] * 9
BETTER = [0.7, 0.8, 0.75] * 3


@pytest.mark.parametrize(
    ("runs", "texts", "without", "is_marked"),
    [
        ({"ours": [FLAT] * 3, "constant": [BETTER] * 3}, {}, "", True),
        ({"profile": [FLAT], "nearest": [BETTER], "ours": [BETTER]}, {}, "ours", True),
        ({"ours": [FLAT] * 3, "public": [BETTER]}, {"public": {"uri": "a.jsonl"}}, "public", False),
    ],
)
def test_difference_is_marked_if_trained_entries_have_three_seeds(
    make_config, runs, texts, without, is_marked
):
    found = result(make_config, runs, texts=texts)
    page = markdown_page(found, PAIRS, {}, [])
    assert (f"No verdict on {without}" in found.without_verdict) == bool(without)
    assert ("No verdict" in page) == bool(without)
    assert ("0.750*" in page) is is_marked


def _run(rouge: list[float], fmr: list[float | None], usr: float) -> Run:
    ids = {"user_id": list("aabbcc"), "item_id": [f"i{number}" for number in range(6)]}
    table = pa.table(
        {**ids, "text": ["text"] * 6, "rouge_l": rouge, "fmr": pa.array(fmr, pa.float64())}
    )
    return Run(table, {"usr": usr})


RUNS = [
    _run([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 0, None, 1, None, 1], 0.5),
    _run([0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [1, 0, None, 1, 1, 1], 0.7),
]


def test_figures_are_means_over_pairs_and_seeds_and_of_each_seed():
    rouge, fmr, usr = metric_rows(RUNS)
    assert (rouge.metric, rouge.num_pairs) == ("rouge_l", 6)
    assert rouge.value == pytest.approx(0.45)
    assert rouge.by_seed == pytest.approx((0.35, 0.55))
    assert rouge.low < 0.45 < rouge.high
    # Two pairs have no FMR in one of the seeds, and are left out in both.
    assert (fmr.num_pairs, fmr.value) == (4, 0.75)
    assert usr == MetricRow("usr", pytest.approx(0.6), None, None, (0.5, 0.7), 6)


def test_differences_are_of_the_same_pairs_minus_the_first_entry():
    first = [_run([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0, 0, 1, 0, None, 0], 0.9)]
    rouge, fmr, usr = metric_rows(RUNS[:1], first)
    assert (rouge.value, rouge.low, rouge.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (fmr.value, fmr.num_pairs) == (0.75, 4)
    assert (usr.value, usr.low) == (pytest.approx(-0.4), None)
    both = metric_rows(RUNS, first)[0]
    assert both.by_seed == pytest.approx((0.1, 0.3))
    assert both.low < 0.1 < 0.3 < both.high


# Texts that are copied


def test_nearest_copies_the_items_text_by_the_user_with_the_nearest_cosine():
    # User 0 points to the right. User 1 is long and 60 degrees off; user 2 is short and 10 off.
    sixty, ten = math.radians(60), math.radians(10)
    users = [
        [1.0, 0.0],
        [100 * math.cos(sixty), 100 * math.sin(sixty)],
        [0.01 * math.cos(ten), 0.01 * math.sin(ten)],
    ]
    graph = GraphEmbeddings(torch.tensor(users), torch.eye(2), Manifest.model_construct())
    words = explained([(1, 0, "by the far one"), (2, 0, "by the near one")])
    assert nearest_texts(words, graph, held_out((0, 0))) == {("u0", "i0"): "by the near one"}
    assert nearest_texts(explained([]), graph, held_out((0, 0))) == {("u0", "i0"): None}


def test_table_from_elsewhere_gives_texts_by_pair_or_is_refused(tmp_path):
    def read(*rows: dict[str, Any], text: str = "xrec") -> dict[tuple[str, str], str | None]:
        uri = str(write_json_lines(tmp_path / "texts.jsonl", rows))
        columns = {"user_id": "uid", "item_id": "iid", "explanation": text}
        config = ElsewhereConfig.model_validate({"uri": uri, "columns": columns})
        return read_elsewhere("public", config, StorageConfig())

    good = {"uid": 7, "iid": "a", "xrec": " A fine place. "}
    other = {"uid": 8, "iid": "b", "xrec": ""}
    assert read(good, other) == {("7", "a"): "A fine place.", ("8", "b"): None}
    for bad in ({"uid": 7, "xrec": "again"}, {"uid": None}, {"xrec": ["x"]}):
        with raises(DataError, "broken_rows", "texts.public") as caught:
            read(good, other, {"uid": 9, "iid": "a", "xrec": "x", **bad})
        assert caught.value.saw[0] == 3  # the line
    with raises(DataError, "missing_column", "says"):
        read(good, text="says")

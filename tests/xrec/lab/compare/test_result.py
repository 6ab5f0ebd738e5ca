"""The figures of a comparison from scores that are written down here."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.world.town import dataset_of, held_out
from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.lab.compare.entries import entries_of
from xrec.lab.compare.figures import Run
from xrec.lab.compare.result import TABLE, Result, result_of, result_table
from xrec.lab.compare.table import Example, markdown_page
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.measures import of_corpus

PAIRS = held_out(*((user, item) for user in range(3) for item in range(3)))
DATASET = dataset_of()


def scored(values: list[float]) -> Run:
    texts = ScoredTexts(tuple(PAIRS), tuple(f"text {value}" for value in values))
    table = pa.table(
        {
            "user_id": [pair.user_id for pair in PAIRS],
            "item_id": [pair.item_id for pair in PAIRS],
            "text": list(texts.texts),
            "coverage": [1.0] * len(PAIRS),
            "rouge_l": values,
        }
    )
    return Run(table, of_corpus(texts))


def result(make_config: MakeConfig, runs: dict[str, list[list[float]]], **changes: Any) -> Result:
    """The result of entries whose seeds have these values of ROUGE-L by pair."""
    config = make_config(
        entries=list(runs), seeds=list(range(max(map(len, runs.values())))), **changes
    )
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
BETTER = [0.7, 0.8, 0.75, 0.7, 0.8, 0.75, 0.7, 0.8, 0.75]


def test_result_has_means_spread_and_differences_by_hand(make_config):
    found = result(
        make_config, {"ours": [FLAT, [0.6] * 9, [0.7] * 9], "profile": [[0.4, 0.5, 0.3] * 3]}
    )
    ours, profile = (found.figures[name]["rouge_l"] for name in ("ours", "profile"))
    assert ours.own.by_seed == pytest.approx((0.5, 0.6, 0.7))
    assert ours.own.value == pytest.approx(0.6)
    assert ours.seed_spread == pytest.approx(0.1)
    assert (profile.own.value, profile.seed_spread) == (pytest.approx(0.4), None)
    assert profile.difference.value == pytest.approx(-0.2)
    assert ours.difference is None
    assert next(iter(found.infos)) == "coverage"
    assert found.num_seeds == {"ours": 3, "profile": 0}


@pytest.mark.parametrize(("num_seeds", "is_marked"), [(3, True), (2, False)])
def test_differences_are_marked_from_three_seeds_on_only(make_config, num_seeds, is_marked):
    rng = np.random.default_rng(0)
    seeds = [[float(value) for value in 0.3 + 0.001 * rng.normal(size=9)] for _ in range(num_seeds)]
    found = result(make_config, {"ours": seeds, "profile": [BETTER]})
    assert ("0.750*" in page_of(found)) == is_marked


def test_table_has_a_row_a_figure(make_config):
    found = result(make_config, {"ours": [FLAT, BETTER], "profile": [BETTER]})
    table = result_table(found)
    assert table.schema.equals(TABLE)
    assert table.num_rows == sum(map(len, found.figures.values()))
    row = next(
        row for row in table.to_pylist() if (row["entry"], row["metric"]) == ("profile", "rouge_l")
    )
    assert row["value"] == pytest.approx(0.75)
    assert row["difference"] == pytest.approx(0.75 - (0.5 + 0.75) / 2)


def page_of(found: Result, **more: Any) -> str:
    return markdown_page(found, PAIRS, more.get("failed", {}), more.get("examples", []))


def test_page_begins_with_coverage_and_has_each_entry_and_difference(make_config):
    runs = {"ours": [FLAT, BETTER], "constant": [BETTER] * 2}
    page = page_of(replace(result(make_config, runs), notes=("Beside: the graph.",)))
    assert "9 held-out pairs of 3 users" in page
    table, differences = page.split("Minus `ours`, pair by pair:")
    header = next(line for line in table.splitlines() if line.startswith("| entry"))
    assert header.split("|")[2].strip().lower().startswith("coverage")
    ours = next(line for line in table.splitlines() if line.startswith("| `ours`"))
    assert "0.625" in ours
    assert "±0.177" in ours
    assert len(ours.split("|")) == len(header.split("|"))
    assert "`ours` |" not in differences
    assert "| +0.125 (" in differences
    assert "- Beside: the graph." in differences


def test_page_has_missing_texts_and_the_same_pairs_side_by_side(make_config):
    runs = {"ours": [FLAT], "profile": [BETTER]}
    found = result(make_config, runs)
    example = Example(PAIRS[4], "A & B", {"ours": "One\n line.", "profile": None})
    page = page_of(found, failed={"ours": {"empty_text": 2}}, examples=[example])
    assert "- `ours` has no text of some pairs, over all seeds: 2 empty_text" in page
    assert page.split("## User u1, item i1 (A & B)")[1].split("\n")[2:5] == [
        "- `reference`: Reference of 1 and 1.",
        "- `ours`: One line.",
        "- `profile`: (no text)",
    ]


@pytest.mark.parametrize(
    ("runs", "changes", "said"),
    [
        ({"ours": [FLAT] * 3, "constant": [BETTER] * 3}, {}, ""),
        (
            {"profile": [FLAT], "nearest": [BETTER], "ours": [BETTER]},
            {},
            "No verdict on ours: it takes 3 seeds of each of the two that is trained.",
        ),
        (
            {"ours": [FLAT] * 3, "public": [BETTER]},
            {"texts": {"public": {"uri": "a.jsonl"}}},  # of one training
            "No verdict on public: it takes 3 seeds of each of the two that is trained.",
        ),
    ],
)
def test_page_says_on_whom_there_is_no_verdict_and_why(make_config, runs, changes, said):
    found = result(make_config, runs, **changes)
    assert found.without_verdict == said
    assert ("No verdict" in page_of(found)) == bool(said)
    assert said in page_of(found)

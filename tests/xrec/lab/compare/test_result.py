"""The figures of a comparison from scores that are written down here."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.xrec.lab.compare.conftest import MakeConfig
from tests.xrec.lab.compare.small import dataset_of, explained, held_out
from xrec.lab.compare.entries import Entry, entries_of
from xrec.lab.compare.formats import is_marked, latex_table, markdown_page, markdown_table
from xrec.lab.compare.made import Costs, Made
from xrec.lab.compare.report import examples_of, render_report
from xrec.lab.compare.result import TABLE, Result, result_of, result_table
from xrec.lab.compare.score import Scored
from xrec.lab.measures.contestant_texts import ContestantTexts

PAIRS = held_out(*((user, item) for user in range(3) for item in range(3)))
# User 0 has no training explanation, user 1 has one, user 2 two.
DATASET = dataset_of(explanations=explained([(1, 0, "a"), (2, 1, "b"), (2, 2, "c")]))


def scored(values: list[float], missing: dict[str, str] | None = None) -> Scored:
    texts = ContestantTexts(tuple(PAIRS), tuple(f"text {value}" for value in values))
    table = pa.table(
        {
            "user_id": [pair.user_id for pair in PAIRS],
            "item_id": [pair.item_id for pair in PAIRS],
            "text": list(texts.texts),
            "coverage": [1.0] * len(PAIRS),
            "rouge_l": values,
        }
    )
    return Scored(texts, table, missing or {}, "f")


def result(make_config: MakeConfig, runs: dict[str, list[list[float]]], **changes: Any) -> Result:
    """The result of contestants whose seeds have these values of ROUGE-L by pair."""
    config = make_config(
        contestants=list(runs), seeds=list(range(max(map(len, runs.values())))), **changes
    )
    entries = {entry: values for name in runs for entry, values in _by_entry(config, name, runs)}
    costs = Costs(training_seconds=7.0, num_trained_parameters=5)
    made = {
        entry: Made({}, "f", {"empty_text": 1}, costs if entry.seed is not None else Costs())
        for entry in entries
    }
    all_scored = {entry: scored(values) for entry, values in entries.items()}
    return result_of(config, DATASET, PAIRS, made, all_scored)


def _by_entry(config: Any, name: str, runs: dict[str, list[list[float]]]) -> list[Any]:
    entries: list[Entry] = entries_of(config)[name]
    return list(zip(entries, runs[name], strict=True))


FLAT = [0.5] * 9
BETTER = [0.7, 0.8, 0.75, 0.7, 0.8, 0.75, 0.7, 0.8, 0.75]


def test_result_has_means_spread_and_differences_by_hand(make_config: MakeConfig) -> None:
    found = result(
        make_config,
        {"ours": [FLAT, [0.6] * 9, [0.7] * 9], "profile": [[0.4, 0.5, 0.3] * 3]},
    )
    ours, profile = found.of("ours")["rouge_l"], found.of("profile")["rouge_l"]
    assert ours.own.by_seed == pytest.approx((0.5, 0.6, 0.7))
    assert ours.own.value == pytest.approx(0.6)
    assert ours.seed_spread == pytest.approx(0.1)
    assert (profile.own.value, profile.seed_spread) == (pytest.approx(0.4), None)
    assert profile.difference is not None
    assert profile.difference.value == pytest.approx(-0.2)
    assert ours.difference is None
    assert next(iter(found.infos)) == "coverage"
    assert found.num_seeds == {"ours": 3, "profile": 0}


def test_result_groups_are_those_of_the_training_explanations(make_config: MakeConfig) -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.9, 0.9, 0.9]
    found = result(make_config, {"profile": [values]}, groups=["user_explanations"])
    by_group = {
        group: found.of("profile", "user_explanations", group)["rouge_l"].own.value
        for group in found.groups("user_explanations")
    }
    assert found.groups("user_explanations")[0] == "none"
    assert by_group["none"] == pytest.approx(0.2)
    assert sorted(by_group.values()) == pytest.approx([0.2, 0.4, 0.9])


def test_result_costs_are_those_of_what_was_trained(make_config: MakeConfig) -> None:
    found = result(make_config, {"ours": [FLAT, FLAT], "profile": [FLAT]})
    assert found.of("ours")["training_seconds"].own.value == 7
    assert "training_seconds" not in found.of("profile")
    assert "num_trained_parameters" not in found.of("profile")  # nobody has told it


@pytest.mark.parametrize(
    ("changes", "num_seeds", "is_said"),
    [
        ({}, 3, True),
        ({}, 2, False),
        ({"verdict": False}, 3, False),
    ],
)
def test_result_says_who_is_better_from_three_seeds_on_only(
    make_config: MakeConfig, changes: dict[str, Any], num_seeds: int, is_said: bool
) -> None:
    rng = np.random.default_rng(0)
    seeds = [[float(value) for value in 0.3 + 0.001 * rng.normal(size=9)] for _ in range(num_seeds)]
    found = result(make_config, {"ours": seeds, "profile": [BETTER]}, **changes)
    assert any("`profile` is better than `ours`, ROUGE-L" in line for line in found.verdicts) == (
        is_said
    )
    assert ("*" in markdown_table(found)) == is_said
    assert ("^{*}" in latex_table(found)) == is_said


def test_table_has_a_row_a_figure(make_config: MakeConfig) -> None:
    found = result(make_config, {"ours": [FLAT, BETTER], "profile": [BETTER]})
    table = result_table(found)
    assert table.schema.equals(TABLE)
    assert table.num_rows == len(found.figures)
    row = next(
        row
        for row in table.to_pylist()
        if (row["contestant"], row["metric"]) == ("profile", "rouge_l")
    )
    assert row["value"] == pytest.approx(0.75)
    assert row["difference"] == pytest.approx(0.75 - (0.5 + 0.75) / 2)


def test_markdown_begins_with_coverage_and_has_each_contestant(make_config: MakeConfig) -> None:
    found = result(make_config, {"ours": [FLAT, BETTER], "profile": [BETTER]})
    page = markdown_page(found, 9, 3)
    lines = [line for line in page.splitlines() if line]
    assert lines[1] == ("Coverage (share of pairs with a text): `ours` 1.000, `profile` 1.000.")
    header = next(line for line in lines if line.startswith("| contestant"))
    assert header.split("|")[2].strip().lower().startswith("coverage")
    ours = next(line for line in lines if line.startswith("| `ours`"))
    assert "0.625" in ours
    assert "±0.177" in ours
    assert len(ours.split("|")) == len(header.split("|"))


def test_latex_is_whole_tabulars_of_a_few_metrics_with_special_characters_escaped(
    make_config: MakeConfig,
) -> None:
    found = result(
        make_config,
        {"ours": [FLAT], "zero_shot": [BETTER]},
    )
    table = latex_table(found)
    assert table.startswith("\\begin{tabular}{l")
    assert table.endswith("\\end{tabular}\n")
    assert "zero\\_shot &" in table
    rows = [line for line in table.splitlines() if line.startswith("zero\\_shot &")]
    columns = [line.count("&") - line.count("\\&") for line in rows]
    assert sum(columns) == len(found.infos)
    assert max(columns) <= 7
    differences = [line for line in table.splitlines() if line.startswith("zero\\_shot - ours &")]
    assert table.count("\\begin{tabular}") == len(rows) + len(differences)
    assert len(rows) > 1
    (row,) = [number for number, line in enumerate(differences) if "$+0.250$" in line]
    after = table.split(differences[row])[1].splitlines()[1]
    assert after.startswith(r" & {\scriptsize $(")  # the interval stands below


def test_markdown_has_the_differences_and_what_a_reader_must_know(make_config: MakeConfig) -> None:
    runs = {"ours": [FLAT] * 3, "constant": [BETTER] * 3}
    page = markdown_page(replace(result(make_config, runs), notes=("Beside: the graph.",)), 9, 3)
    table, differences = page.split("Minus `ours`, pair by pair:")
    assert "`ours` |" in table
    assert "`ours` |" not in differences
    assert "+0.250 (+0.2" in differences
    assert "- Beside: the graph." in differences


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("runs", "changes", "said"),
    [
        ({"ours": [FLAT] * 3, "constant": [BETTER] * 3}, {}, ""),
        (
            {"ours": [FLAT] * 3, "constant": [BETTER] * 3},
            {"verdict": False},
            "No verdict was asked for (verdict: false).",
        ),
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
        (
            {"ours": [FLAT] * 3, "public": [BETTER]},
            {"texts": {"public": {"uri": "a.jsonl", "is_trained": False}}},
            "",
        ),
    ],
)
def test_page_and_report_say_on_whom_there_is_no_verdict_and_why(
    make_config: MakeConfig, runs: Any, changes: dict[str, Any], said: str
) -> None:
    found = result(make_config, runs, **changes)
    assert found.without_verdict == said
    report = render_report(found, [], num_pairs=9, num_users=3, failed={}, config={})
    for page in (markdown_page(found, 9, 3), report):
        assert ("No verdict" in page) == bool(said)
        assert said in page


def test_metric_that_one_seed_lacks_is_left_out(make_config: MakeConfig) -> None:
    config = make_config(contestants=["ours"], seeds=[0, 1])
    entries = entries_of(config)["ours"]
    scores = [scored(FLAT), scored(BETTER, {"bleurt": "no such model"})]
    more = scores[0].table.append_column("bleurt", pa.array(FLAT))
    by_entry = dict(zip(entries, [replace(scores[0], table=more), scores[1]], strict=True))
    made = {entry: Made({}, "f") for entry in entries}
    for order in (entries, entries[::-1]):
        found = result_of(config, DATASET, PAIRS, made, {entry: by_entry[entry] for entry in order})
        assert "bleurt" not in found.of("ours")
        assert found.missing == {"bleurt": "no such model"}


def test_interval_of_a_share_ends_at_one(make_config: MakeConfig) -> None:
    own = result(make_config, {"ours": [[1.0] * 8 + [0.0]]}).of("ours")["rouge_l"].own
    assert (own.value, own.high) == (pytest.approx(8 / 9), 1)
    assert own.low is not None
    assert 0 <= own.low < own.value


@pytest.mark.usefixtures("without_plots")
def test_report_shows_the_same_pairs_side_by_side_and_escapes_them(
    make_config: MakeConfig,
) -> None:
    found = result(make_config, {"ours": [FLAT], "profile": [BETTER]}, groups=["item_interactions"])
    pair = PAIRS[4]
    texts = {
        "ours": {("u1", "i1"): "<script>alert(1)</script>"},
        "profile": {("u1", "i1"): None},
    }
    page = render_report(
        found,
        examples_of([pair], ["A & B"], texts),
        num_pairs=9,
        num_users=3,
        failed={"ours": {"empty_text": 2}},
        config={"split": "test"},
    )
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "(A &amp; B)" in page
    assert "Reference of 1 and 1." in page
    assert "(no text)" in page
    assert "2 empty_text" in page
    assert page.index("Coverage: ") < page.index("ROUGE-L")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_report_is_the_same_each_time_with_its_plots(make_config: MakeConfig) -> None:
    found = result(make_config, {"ours": [FLAT, BETTER], "profile": [BETTER]})

    def page() -> str:
        return render_report(found, [], num_pairs=9, num_users=3, failed={}, config={})

    assert page() == page()
    assert page().count("<svg") > 1


def test_result_marks_no_difference_that_rests_on_one_seed(make_config: MakeConfig) -> None:
    high = [0.1 + 0.1 * value for value in BETTER]
    found = result(make_config, {"profile": [FLAT], "nearest": [BETTER], "ours": [high]})
    marked = {name: is_marked(found, found.of(name)["rouge_l"]) for name in found.contestants}
    assert found.verdicts
    assert marked == {"profile": False, "nearest": True, "ours": False}

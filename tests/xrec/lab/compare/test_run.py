"""A comparison from beginning to end, without a language model and without Ray."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.lab.compare.comparisons import Work, figures, run, table
from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.data.dataset import read_dataset
from xrec.data.held_out import held_out_pairs
from xrec.errors import ArtifactMismatchError, DataError
from xrec.lab.blind.sheet import Sheet, read_sheet
from xrec.lab.compare.entries import entries_of
from xrec.lab.compare.judges import published_judges
from xrec.storage import Manifest, location_of, open_location

pytestmark = pytest.mark.usefixtures("without_plots")
SEEDED = ["ours", "constant", "nearest", "profile"]


def test_compare_writes_one_table_in_all_its_forms(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(contestants=SEEDED)
    manifest = run(config)
    folder = tmp_path / "comparison"
    assert set(manifest.files) == {
        "table.parquet",
        "table.md",
        "table.tex",
        "metrics.json",
        "report.html",
    }
    assert all((folder / name).is_file() for name in manifest.files)
    assert manifest.row_counts["contestants"] == 4
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    seeds = [f"{name}-{seed}" for name in ("constant", "ours") for seed in (0, 1, 2)]
    assert names == sorted([*seeds, "nearest", "profile"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == SEEDED
    assert next(iter(metrics["ours"])) == "coverage"


def test_compare_figures_are_means_over_seeds_of_all_pairs(make_config: MakeConfig) -> None:
    config = make_config(contestants=SEEDED)
    run(config)
    found = figures(config)
    coverage = found["ours", "coverage"]
    assert len(coverage["by_seed"]) == 3
    assert coverage["value"] == pytest.approx(np.mean(coverage["by_seed"]))
    assert coverage["seed_spread"] == pytest.approx(np.std(coverage["by_seed"], ddof=1))
    dataset = read_dataset(location_of(config, "dataset"))
    assert coverage["num_pairs"] == len(held_out_pairs(dataset, "test"))
    assert 0.7 < coverage["value"] < 1  # a tenth of the texts is missing
    assert found["profile", "coverage"]["value"] == 1
    rouge = {name: found[name, "rouge_l"] for name in SEEDED}
    assert rouge["ours"]["value"] > rouge["constant"]["value"]
    assert rouge["constant"]["difference"] == pytest.approx(
        rouge["constant"]["value"] - rouge["ours"]["value"]
    )
    assert rouge["constant"]["difference_high"] < 0
    assert rouge["ours"]["difference"] is None


def test_compare_costs_stand_in_the_same_table(make_config: MakeConfig) -> None:
    config = make_config(contestants=["ours", "profile"])
    run(config)
    found = figures(config)
    assert found["ours", "training_seconds"]["value"] == 12
    assert found["ours", "num_trained_parameters"]["value"] == 100
    assert found["profile", "num_trained_parameters"]["value"] == 0
    assert ("profile", "training_seconds") not in found


def test_compare_groups_have_each_metric_and_their_pairs_add_up(make_config: MakeConfig) -> None:
    config = make_config(contestants=["ours", "profile"], groups=["user_explanations"])
    run(config)
    rows = [row for row in table(config).to_pylist() if row["grouping"] == "user_explanations"]
    assert len({row["group"] for row in rows}) > 1
    of_ours = [row for row in rows if (row["contestant"], row["metric"]) == ("ours", "coverage")]
    every = figures(config)["ours", "coverage"]
    assert sum(row["num_pairs"] for row in of_ours) == every["num_pairs"]
    weighed = sum(row["num_pairs"] * row["value"] for row in of_ours) / every["num_pairs"]
    assert weighed == pytest.approx(every["value"])


def test_compare_second_run_makes_and_scores_nothing(make_config: MakeConfig) -> None:
    config, again = make_config(contestants=SEEDED), Work()
    manifest = run(config)
    assert run(config, again) == manifest
    assert (again.made, again.num_scored) == ([], 0)


def test_compare_scores_that_lack_a_metric_are_made_again(make_config: MakeConfig) -> None:
    class Lacking(Work):
        def score(self, task: Any, texts: Any) -> Any:
            for place, scored in super().score(task, texts):
                yield place, replace(scored, missing={"bleurt": "its checkpoint could not be had"})

    config, again = make_config(contestants=SEEDED), Work()
    first = Lacking()
    run(config, first)
    run(config, again)
    assert again.made == []
    assert again.num_scored == first.num_scored > 0


def test_compare_an_added_contestant_or_seed_is_made_alone(make_config: MakeConfig) -> None:
    run(make_config(contestants=["ours", "profile"], seeds=[0, 1]))
    work = Work()
    config = make_config(contestants=["ours", "profile", "constant"], seeds=[0, 1, 2])
    run(config, work)
    assert work.made == ["ours-2", "constant-0", "constant-1", "constant-2"]
    assert work.num_scored == 4
    assert set(figures(config)) >= {("constant", "rouge_l"), ("ours", "rouge_l")}


def test_compare_other_pairs_are_refused_where_texts_are_of_these(make_config: MakeConfig) -> None:
    run(make_config())
    with pytest.raises(ArtifactMismatchError, match="pairs: "):
        run(make_config(max_pairs=5))


@pytest.mark.slow
def test_compare_killed_before_any_step_ends_with_the_same_table(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    unbroken = Work()
    whole = run(make_config(contestants=SEEDED, comparison=str(tmp_path / "whole")), unbroken)
    for stop_at in range(1, unbroken.num_steps + 1):
        config = make_config(contestants=SEEDED, comparison=str(tmp_path / f"killed-{stop_at}"))
        with pytest.raises(KeyboardInterrupt):
            run(config, Work(stop_at=stop_at))
        assert not (location_of(config, "comparison") / "manifest.json").exists()
        assert run(config).files == whole.files


def test_compare_killed_while_the_table_is_written_ends_with_the_same_table(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(contestants=SEEDED)
    whole = run(config)
    larger = make_config(contestants=[*SEEDED, "lora"])

    def killed(*arguments: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xrec.lab.compare.artifact.latex_table", killed)
        with pytest.raises(KeyboardInterrupt):
            run(larger)
    assert not (location_of(config, "comparison") / "manifest.json").exists()
    assert run(config).files == whole.files


def test_compare_texts_of_unknown_pairs_are_refused_before_anything_is_made(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"user_id": "nobody", "item_id": "nothing", "explanation": "Hm."}\n')
    config = make_config(contestants=["profile", "public"], texts={"public": {"uri": str(path)}})
    work = Work()
    with pytest.raises(DataError, match=r"'public': 1 of 1 texts are of pairs .*'nobody'"):
        run(config, work)
    assert work.num_steps == 0


def test_compare_texts_from_elsewhere_lack_what_the_table_lacks(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    dataset = read_dataset(location_of(config, "dataset"))
    pairs = held_out_pairs(dataset, "test")
    half = pairs[::2]
    path = tmp_path / "texts.jsonl"
    rows = [{"u": pair.user_id, "i": pair.item_id, "says": pair.reference} for pair in half]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"user_id": "u", "item_id": "i", "text": "says"}
    config = make_config(
        contestants=["profile", "public"], texts={"public": {"uri": str(path), **names}}
    )
    run(config)
    found = figures(config)
    share = len(half) / len(pairs)
    assert found["public", "coverage"]["value"] == pytest.approx(share)
    # Where it has a text it is the reference, and an empty text counts as one.
    assert found["public", "rouge_l"]["value"] == pytest.approx(share)
    report = (tmp_path / "comparison" / "report.html").read_text()
    assert f"{len(pairs) - len(half)} no_text" in report


def test_compare_without_references_says_so(make_config: MakeConfig) -> None:
    with pytest.raises(DataError, match="of fewer than two users"):
        run(make_config(max_pairs=2, split="validation", pairs_seed=_seed_of_one_user(make_config)))


def _seed_of_one_user(make_config: MakeConfig) -> int:
    """A seed by which both pairs that are drawn are of one user."""
    from xrec.data.drawn import drawn_pairs

    pairs = held_out_pairs(read_dataset(location_of(make_config(), "dataset")), "validation")
    return next(
        seed
        for seed in range(10_000)
        if len({pair.user_id for pair in drawn_pairs(pairs, 2, seed=seed)}) == 1
    )


def test_compare_verdicts_come_from_three_seeds_on_only(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    few = make_config(contestants=["ours", "constant"], seeds=[0, 1])
    run(few)
    page = (tmp_path / "comparison" / "table.md").read_text()
    assert "No verdict" in page
    assert "worse" not in page
    enough = make_config(contestants=["ours", "constant"], seeds=[0, 1, 2])
    run(enough)
    page = (tmp_path / "comparison" / "table.md").read_text()
    assert "`constant` is worse than `ours`, ROUGE-L" in page


def test_compare_texts_of_the_other_split_are_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    dataset = read_dataset(location_of(make_config(), "dataset"))
    path = tmp_path / "texts.jsonl"
    rows = [
        {"user_id": pair.user_id, "item_id": pair.item_id, "explanation": "Fine."}
        for pair in held_out_pairs(dataset, "validation")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(contestants=["profile", "public"], texts={"public": {"uri": str(path)}})
    with pytest.raises(DataError, match=r"of none of the .* pairs .* texts of the split 'test'"):
        run(config)


def test_compare_of_other_pairs_that_is_refused_leaves_the_pairs_as_they_were(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config())
    (file,) = (tmp_path / "comparison").glob("pairs-*.parquet")
    before = file.read_bytes()
    with pytest.raises(ArtifactMismatchError):
        run(make_config(max_pairs=5))
    assert file.read_bytes() == before


def test_compare_killed_between_scores_and_their_manifest_takes_no_other_ones_scores(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    whole = run(config)

    def killed(*arguments: Any, **names: Any) -> Manifest:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "xrec.lab.compare.score.metrics_identity", lambda *rest, **names: {"other": 1}
        )
        patch.setattr("xrec.lab.compare.score.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not (location_of(config, "comparison") / "profile" / "scores" / "manifest.json").exists()
    assert run(config).files == whole.files


def test_compare_broken_scores_of_published_judges_end_it_before_anything_is_made(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    pair = held_out_pairs(read_dataset(location_of(make_config(), "dataset")), "test")[0]
    row = {"user_id": pair.user_id, "item_id": pair.item_id, "explanation": "Fine.", "marks": "x"}
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    judge = {"kind": "engine", "llm": {"model": "/nowhere"}}
    config = make_config(
        contestants=["ours", "public"],
        texts={"public": {"uri": str(path), "judge_scores": f"{path}#marks"}},
        metrics={
            "encoder": None,
            "judges": [{"name": "one", "model": judge}, {"name": "two", "model": judge}],
        },
    )
    work = Work()
    with pytest.raises(DataError, match="under 'marks' an object of scores by judge"):
        run(config, work)
    assert work.num_steps == 0
    assert published_judges(config.model_copy(update={"contestants": ["ours"]})) == {}


def test_compare_answers_about_texts_that_are_others_now_are_left_out_of_correlations(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("krippendorff", reason="the extra compare is not installed")
    config = {"contestants": ["ours", "profile"], "blind_sheet": {"num_pairs": 6}}
    run(make_config(**config, seeds=[0]))
    (folder,) = (tmp_path / "comparison" / "blind-sheets").iterdir()
    sheet = read_sheet(open_location(str(folder)))
    answers = [
        {"pair": number, "place": place, "true": 1 + (number + place) % 5}
        for number in range(1, len(sheet.pairs) + 1)
        for place in (1, 2)
    ]
    path = tmp_path / "anna.json"
    saved = {"sheet": sheet.fingerprint, "judge": "Anna", "answers": answers}
    path.write_text(json.dumps(saved))
    config["blind_sheet"] = {"answers": str(path)}
    num_texts = []
    for seeds in ([0, 1], [1, 0]):
        run(make_config(**config, seeds=seeds))
        people = json.loads((tmp_path / "comparison" / "people" / "people.json").read_text())
        num_texts += [each["num_texts"] for each in people["correlations"]][:1]
    same = sum(
        text == there
        for text, there in zip(
            *(_texts_of_ours(make_config, sheet, seed) for seed in (0, 1)), strict=True
        )
    )
    assert num_texts == [12, 6 + same]
    assert f"{6 - same} of 12 texts of the sheet are not those that are scored" in caplog.text


def _texts_of_ours(make_config: MakeConfig, sheet: Sheet, seed: int) -> list[str]:
    location = location_of(make_config(), "comparison") / f"ours-{seed}" / "scores"
    table = pq.read_table(pa.BufferReader((location / "scores.parquet").read_bytes()))
    texts = {(row["user_id"], row["item_id"]): row["text"] for row in table.to_pylist()}
    return [texts[pair.user_id, pair.item_id] for pair in sheet.pairs]


def test_compare_blind_sheet_is_written_and_its_answers_read(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    pytest.importorskip("krippendorff", reason="the extra compare is not installed")
    contestants = ["ours", "profile"]
    run(make_config(contestants=contestants, blind_sheet={"num_pairs": 4}))
    (folder,) = (tmp_path / "comparison" / "blind-sheets").iterdir()
    sheet = read_sheet(open_location(str(folder)))
    answers = []
    for number, pair in enumerate(sheet.pairs, start=1):
        for place, name in enumerate(pair.contestants, start=1):
            rating = 5 if name == "profile" else 2
            answers.append({"pair": number, "place": place, "true": rating})
    path = tmp_path / "anna.json"
    saved = {"sheet": sheet.fingerprint, "judge": "Anna", "answers": answers}
    path.write_text(json.dumps(saved))
    work = Work()
    run(make_config(contestants=contestants, blind_sheet={"answers": str(path)}), work)
    assert (work.made, work.num_scored) == ([], 0)
    people = json.loads((tmp_path / "comparison" / "people" / "people.json").read_text())
    (_, profile) = people["judged"]
    assert (profile["contestant"], profile["win_rate"]["value"]) == ("profile", 1)
    assert {each["metric"] for each in people["correlations"]} >= {"rouge_l"}


def test_entries_are_a_folder_a_seed_or_one_where_the_seed_changes_nothing(
    make_config: MakeConfig,
) -> None:
    entries = entries_of(make_config(contestants=["nearest", "ours"], seeds=[4, 7]))
    assert {name: [entry.name for entry in each] for name, each in entries.items()} == {
        "nearest": ["nearest"],
        "ours": ["ours-4", "ours-7"],
    }

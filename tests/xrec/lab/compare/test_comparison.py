"""A comparison from beginning to end."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.errors import raises
from tests.world.shop import write_json_lines
from tests.xrec.lab.compare.conftest import Done, figures, run
from xrec.config import CompareConfig
from xrec.data import HeldOutPair, held_out_pairs, read_dataset
from xrec.errors import DataError, ModelError
from xrec.storage import location_of

SEEDED = ["ours", "constant", "nearest", "profile"]


def pairs_of(config: CompareConfig, split: Any = "test") -> list[HeldOutPair]:
    return held_out_pairs(read_dataset(location_of(config, "dataset")), split)


def texts_of(path: Path, pairs: list[HeldOutPair]) -> dict[str, Any]:
    """Write a table in which each pair's text is its reference; return keys of a config."""
    names = {"user_id": "u", "item_id": "i", "explanation": "says"}
    rows = [{"u": pair.user_id, "i": pair.item_id, "says": pair.reference} for pair in pairs]
    texts = {"public": {"uri": str(write_json_lines(path, rows)), "columns": names}}
    return {"entries": ["profile", "public"], "texts": texts}


def test_compare_makes_only_the_entries_that_are_new(make_config, tmp_path):
    config, again = make_config(entries=["ours", "profile"], seeds=[0, 1]), Done()
    manifest = run(config)
    assert run(config, again).files == manifest.files
    assert (again.made, again.num_scored) == ([], 0)
    config, more = make_config(entries=SEEDED), Done()
    tables = {f"table.{ending}" for ending in ("parquet", "md", "csv", "tex", "html")}
    assert set(run(config, more).files) == {*tables, "texts.parquet"}
    assert more.made == ["ours-2", "constant-0", "constant-1", "constant-2", "nearest"]
    assert more.num_scored == 5
    names = {path.name for path in (tmp_path / "comparison").iterdir() if path.is_dir()}
    assert names == {*more.made, "ours-0", "ours-1", "profile"}
    found = figures(config)
    coverage = found["ours", "coverage"]
    assert coverage["value"] == pytest.approx(np.mean(coverage["by_seed"]))
    assert coverage["seed_spread"] == pytest.approx(np.std(coverage["by_seed"], ddof=1))
    assert coverage["num_pairs"] == len(pairs_of(config))
    assert 0.7 < coverage["value"] < 1  # a tenth of the texts is missing
    assert found["profile", "coverage"]["value"] == 1
    assert found["ours", "training_seconds"]["value"] == 12
    assert found["profile", "num_trained_parameters"]["value"] == 0
    assert ("profile", "training_seconds") not in found
    (file,) = (tmp_path / "comparison").glob("pairs-*.parquet")
    before = file.read_bytes()
    run(make_config(max_pairs=5))
    assert figures(make_config())["nearest", "coverage"]["num_pairs"] == 5
    assert file.read_bytes() == before


def test_compare_that_was_killed_while_writing_starts_over(make_config, monkeypatch):
    config = make_config()
    whole = run(config)
    with monkeypatch.context() as patch:
        other = {"other": 1}
        patch.setattr("xrec.lab.compare.scores.metrics_identity", lambda *rest, **names: other)
        patch.setattr("xrec.lab.compare.entries.metrics_identity", lambda *rest, **names: other)
        killed = Mock(side_effect=KeyboardInterrupt)
        patch.setattr("xrec.lab.compare.comparison.write_contents", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not Path(f"{config.artifact('comparison')}/manifest.json").exists()
    assert run(config).files == whole.files


def test_texts_from_elsewhere_may_lack_pairs(make_config, tmp_path):
    pairs = pairs_of(make_config())
    config = make_config(**texts_of(tmp_path / "texts.jsonl", pairs[::2]))
    run(config)
    found, share = figures(config), len(pairs[::2]) / len(pairs)
    assert found["public", "coverage"]["value"] == pytest.approx(share)
    # Where it has a text it is the reference, and an empty text counts as one.
    assert found["public", "rouge_l"]["value"] == pytest.approx(share)
    page = (tmp_path / "comparison" / "table.md").read_text()
    assert f"{len(pairs) - len(pairs[::2])} no_text" in page


def test_compare_refuses_bad_inputs_before_it_makes_anything(make_config, tmp_path):
    path, validation = tmp_path / "texts.jsonl", pairs_of(make_config(), "validation")
    done = Done()
    with raises(DataError, "texts_of_other_pairs", "public"):
        run(make_config(**texts_of(path, validation)), done)
    assert (done.made, done.num_scored) == ([], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.lab.compare.entries.drawn_pairs", lambda pairs, count: pairs[:1] * 2)
        with raises(DataError, "no_references", "splits.test", 2):
            run(make_config(max_pairs=2))
    with pytest.raises(ModelError):
        run(make_config(encoder="./nowhere"))

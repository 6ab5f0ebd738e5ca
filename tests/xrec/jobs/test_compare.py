"""The job `compare` with training on Ray: adapters, a frozen model and a baseline in one table.

The language model has random weights, so only the steps are tested, not the texts.
"""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.world.here import map_here, pool_here
from tests.world.workspace import PROMPT, build_workspace
from tests.xrec.jobs.conftest import DECODING
from tests.xrec.train.adapter_town import TRAINING
from xrec.adapter.artifact import read_adapter
from xrec.backfill import read
from xrec.config import RANKERS, CompareConfig, parse_config
from xrec.jobs import compare as compare_job
from xrec.lab.baselines.baseline import RECIPES
from xrec.storage import open_location, read_manifest

ENTRIES = ["ours", "constant", "zero_shot", "peter", "nearest", "profile"]


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    return {(row["user_id"], row["item_id"]) for row in table.to_pylist()}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_compare_has_all_entries_with_their_costs_and_texts_of_the_same_pairs(
    tmp_path, monkeypatch
):
    town = build_workspace(tmp_path)
    values = {
        "workspace": town,
        "llm": {"model": f"{town}/llm", "dtype": "float32"},
        "entries": ENTRIES,
        "seeds": [0],
        "decoding": DECODING | {"max_new_tokens": 6},
        "prompt": PROMPT,
        "max_pairs": 12,
        "model": {"num_experts": 2},
        "training": {**TRAINING, "max_pairs": 64, "num_epochs": 1, "max_validation_pairs": 4},
        "workers": {"num_processes": 1, "device": "cpu", "max_failures": 0},
        "actors": {"num_processes": 1, "device": "cpu"},
        "encoder": None,
    }
    monkeypatch.setattr("xrec.backfill.driver.RayPool", pool_here)
    for module in ("compare.scores", "baselines.texts"):
        monkeypatch.setattr(f"xrec.lab.{module}.map_in_processes", map_here)
    monkeypatch.setitem(RECIPES, "peter", replace(RECIPES["peter"], num_epochs=1))
    manifest = compare_job.run(parse_config(CompareConfig, values))
    assert set(manifest.inputs) == {"dataset", "graph", "base_model"}

    folder = tmp_path / "comparison"
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    figures = {(row["entry"], row["metric"]): row for row in rows}
    assert {name for name, _ in figures} == {*ENTRIES, *RANKERS}
    assert {figures[name, "coverage"]["num_pairs"] for name in ENTRIES} == {12}
    for name in ("ours", "peter"):
        assert figures[name, "num_trained_parameters"]["value"] > 0
    constant = read_adapter(open_location(f"{folder}/constant-0/adapter"))
    assert constant.config.model.vectors == "constant"
    baseline = read_manifest(open_location(f"{folder}/peter-0/model"), "baseline")
    assert baseline.row_counts["train"] == 64
    (file,) = folder.glob("pairs-*.parquet")
    pairs = _pairs(pq.read_table(file))
    assert len(pairs) == 12
    for name in ("ours-0", "zero_shot"):
        assert _pairs(read(f"{folder}/{name}/explanations").to_table()) <= pairs
    assert _pairs(pq.read_table(folder / "peter-0" / "texts" / "texts.parquet")) == pairs

"""The job `compare` on Ray: adapters, a frozen model, a baseline and copies in one table.

The town's language model has random weights, so its texts say nothing; that they are trained, made,
scored and taken again is what is tested.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

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

pytestmark = pytest.mark.slow
ENTRIES = ["ours", "constant", "zero_shot", "peter", "nearest", "profile"]
COMPARISON: dict[str, Any] = {
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


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return build_workspace(tmp_path_factory.mktemp("compared"))


def config_of(town: str, **values: Any) -> CompareConfig:
    llm = {"model": f"{town}/llm", "dtype": "float32"}
    return parse_config(CompareConfig, {"workspace": town, "llm": llm, **COMPARISON, **values})


@pytest.fixture(scope="module")
def compared(ray_cluster, town):
    """The manifest; Ray trains, and all else is done in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.backfill.driver.RayPool", pool_here)
        for module in ("compare.scores", "baselines.texts"):
            patch.setattr(f"xrec.lab.{module}.map_in_processes", map_here)
        patch.setitem(RECIPES, "peter", replace(RECIPES["peter"], num_epochs=1))
        yield compare_job.run(config_of(town))


def test_compare_has_all_entries_with_their_costs_in_one_table(town, compared):
    rows = pq.read_table(Path(town) / "comparison" / "table.parquet").to_pylist()
    of_all = {(row["entry"], row["metric"]): row for row in rows}
    assert {name for name, _ in of_all} == {*ENTRIES, *RANKERS}
    for name in ENTRIES:
        assert of_all[name, "coverage"]["num_pairs"] == 12
    adapters = read_adapter(open_location(f"{town}/comparison/ours-0/adapter")).adapters
    num_parameters = sum(
        weight.numel() for side in (adapters.user, adapters.item) for weight in side.parameters()
    )
    assert of_all["ours", "num_trained_parameters"]["value"] == num_parameters
    for name in ("ours", "peter"):
        assert of_all[name, "training_seconds"]["value"] > 0
    for name in ("ours", "zero_shot", "peter"):
        assert of_all[name, "pairs_per_second"]["value"] > 0
    assert set(compared.inputs) == {"dataset", "graph", "base_model"}


def test_compare_entries_are_ordinary_artifacts_of_the_same_pairs_and_budget(town, compared):
    folder = f"{town}/comparison"
    training = read_manifest(open_location(f"{folder}/ours-0/adapter"), "adapter").config[
        "training"
    ]
    assert (training["max_pairs"], training["num_epochs"]) == (64, 1)
    constant = read_adapter(open_location(f"{folder}/constant-0/adapter"))
    assert constant.config.model.vectors == "constant"
    baseline = read_manifest(open_location(f"{folder}/peter-0/model"), "baseline")
    assert baseline.row_counts["train"] == 64
    (file,) = Path(folder).glob("pairs-*.parquet")
    pairs = _pairs(pq.read_table(file))
    assert len(pairs) == 12
    for name in ("ours-0", "zero_shot"):
        assert _pairs(read(f"{folder}/{name}/explanations").to_table()) <= pairs
    texts = pq.read_table(Path(folder) / "peter-0" / "texts" / "texts.parquet")
    assert _pairs(texts) == pairs


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    return {(row["user_id"], row["item_id"]) for row in table.to_pylist()}

"""The job `ablate` on Ray: ours and the constant variant, with texts and likelihoods.

The language model has random weights; that each variant is trained, weighed and taken again is what
is tested. What is the same for all comparisons is tested in test_compare.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import jobs.ablate
import jobs.compare
from tests.jobs.small_comparison import values_of
from tests.xrec.train.adapter_town import build_workspace
from xrec.adapter.artifact import read_adapter
from xrec.adapter.pairs import Pair
from xrec.config.ablate import AblateConfig
from xrec.config.base import parse_config
from xrec.config.engine import EngineConfig
from xrec.data.dataset import read_dataset
from xrec.data.held_out import held_out_pairs
from xrec.generate.loading import Sources, load_explainer
from xrec.generate.scoring import reference_nll
from xrec.lab.compare.likelihoods import LIKELIHOODS
from xrec.storage import Manifest, location_of, open_location, read_table

VARIANTS = ("ours", "constant")
OWN = {
    "contestants": VARIANTS,
    "decoding": {"max_new_tokens": 4, "text": {"max_phrase_repeats": None}},
}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_workspace(tmp_path_factory.mktemp("ablated"))


def config_of(town: str, **values: Any) -> AblateConfig:
    return parse_config(AblateConfig, values_of(town, OWN, **values))


@pytest.fixture(scope="module")
def ablated(ray_cluster: None, town: str) -> Manifest:
    return jobs.ablate.run(config_of(town))


def figures(town: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = pq.read_table(Path(town) / "ablation" / "table.parquet").to_pylist()
    return {(row["contestant"], row["metric"]): row for row in rows}


def test_ablate_variants_are_ordinary_adapters_that_say_what_they_are(
    town: str, ablated: Manifest
) -> None:
    folder = open_location(f"{town}/ablation")
    ours, constant = (read_adapter(folder / f"{name}-0" / "adapter") for name in VARIANTS)
    assert (ours.config.model.vectors, constant.config.model.vectors) == ("graph", "constant")
    assert ours.manifest.config["training"] == constant.manifest.config["training"]


def test_ablate_the_constant_variant_cannot_tell_users_apart_and_ours_can(
    town: str, ablated: Manifest
) -> None:
    found = figures(town)
    for name in VARIANTS:
        assert found[name, "nll"]["num_pairs"] == 12
        assert found[name, "nll"]["value"] > 0
    assert found["constant", "personalization_gain"]["value"] == pytest.approx(0, abs=1e-5)
    assert abs(found["ours", "personalization_gain"]["value"]) > 1e-5
    above = found["constant", "nll"]
    assert above["difference"] == pytest.approx(above["value"] - found["ours", "nll"]["value"])
    assert above["difference_low"] <= above["difference"] <= above["difference_high"]


def test_ablate_likelihoods_are_those_of_the_adapter_artifact(town: str, ablated: Manifest) -> None:
    config = config_of(town)
    adapter = f"{town}/ablation/ours-0/adapter"
    sources = Sources(
        config.artifact("dataset"),
        config.artifact("graph"),
        adapter,
        config.language_model,
        config.storage,
    )
    explainer = load_explainer(sources, device="cpu", engine=EngineConfig())
    table = read_table(
        open_location(f"{town}/ablation/ours-0/likelihoods/likelihoods.parquet"), LIKELIHOODS
    )
    held_out = held_out_pairs(read_dataset(location_of(config, "dataset")), "test")
    known = {(pair.user_id, pair.item_id): pair for pair in held_out}
    first = table.to_pylist()[0]
    pair = known[first["user_id"], first["item_id"]]
    own = reference_nll(
        explainer, [Pair(pair.user_index, pair.item_index)], [pair.reference], "NLL"
    )
    assert own == pytest.approx([first["nll"]], rel=1e-4)


def test_ablate_second_run_starts_no_work(
    town: str, ablated: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.compare, "compare", None)
    assert jobs.ablate.run(config_of(town)) == ablated
    assert ablated.kind == "ablation"

"""The job `compare` on Ray: an adapter, a frozen model, a peer and copies in one table.

The town's language model has random weights, so its texts say nothing; that they are trained, made,
scored and taken again is what is tested.
"""

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import jobs.compare
from tests.jobs.small_comparison import COMPARISON, values_of
from tests.project_file import write_project
from tests.xrec.train.adapter_town import TRAINING, build_workspace
from tests.xrec.train.killing import driver, kill_family
from xrec.adapter.artifact import read_adapter
from xrec.backfill import read
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig
from xrec.errors import ArtifactMismatchError, DataError, ModelError
from xrec.storage import Manifest, open_location, read_manifest

CONTESTANTS = ["ours", "zero_shot", "att2seq", "nearest", "profile"]
OWN: dict[str, Any] = {
    "contestants": CONTESTANTS,
    "seeds": [0],
    "decoding": {
        "max_new_tokens": 6,
        "text": {"max_words": None, "max_phrase_repeats": None, "max_echo_tokens": None},
    },
    "rows_per_chunk": 6,
    "likelihood": True,
    "peers": {
        "att2seq": {
            "max_words": 6,
            "att2seq": {"embedding_dim": 4, "hidden_size": 8, "num_layers": 1, "batch_size": 16},
        },
    },
    "groups": ["user_interactions"],
}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_workspace(tmp_path_factory.mktemp("compared"))


def config_of(town: str, **values: Any) -> CompareConfig:
    return parse_config(CompareConfig, values_of(town, OWN, **values))


@pytest.fixture(scope="module")
def compared(ray_cluster: None, town: str) -> Manifest:
    return jobs.compare.run(config_of(town))


def test_compare_has_all_contestants_with_their_costs_in_one_table(
    town: str, compared: Manifest
) -> None:
    rows = pq.read_table(Path(town) / "comparison" / "table.parquet").to_pylist()
    of_all = {(row["contestant"], row["metric"]): row for row in rows if row["group"] == "all"}
    assert {name for name, _ in of_all} == set(CONTESTANTS)
    for name in CONTESTANTS:
        assert of_all[name, "coverage"]["num_pairs"] == 12
    adapters = read_adapter(open_location(f"{town}/comparison/ours-0/adapter")).adapters
    num_parameters = sum(
        weight.numel() for side in (adapters.user, adapters.item) for weight in side.parameters()
    )
    assert of_all["ours", "num_trained_parameters"]["value"] == num_parameters
    for name in ("ours", "att2seq"):
        assert of_all[name, "training_seconds"]["value"] > 0
    for name in ("ours", "zero_shot", "att2seq"):
        assert of_all[name, "pairs_per_second"]["value"] > 0
    assert of_all["ours", "nll"]["value"] > 0
    assert set(compared.inputs) == {"dataset", "graph", "base_model"}


def test_compare_entries_are_ordinary_artifacts_of_the_same_pairs_and_budget(
    town: str, compared: Manifest
) -> None:
    folder = f"{town}/comparison"
    adapter = read_manifest(open_location(f"{folder}/ours-0/adapter"), "adapter")
    assert adapter.config["training"]["max_pairs"] == 64
    assert adapter.config["training"]["num_epochs"] == 1
    peer = read_manifest(open_location(f"{folder}/att2seq-0/peer"), "peer")
    assert peer.row_counts["train"] == 64
    (file,) = Path(folder).glob("pairs-*.parquet")
    pairs = {tuple(row.values()) for row in pq.read_table(file).to_pylist()}
    assert len(pairs) == 12
    for name in ("ours-0", "att2seq-0", "zero_shot"):
        rows = read(f"{folder}/{name}/explanations").to_table(columns=["user_id", "item_id"])
        assert {tuple(row.values()) for row in rows.to_pylist()} <= pairs


def test_compare_second_run_starts_no_work_and_other_settings_are_refused(
    town: str, compared: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(jobs.compare, "compare", None)
        assert jobs.compare.run(config_of(town)) == compared
    with pytest.raises(ArtifactMismatchError, match=r"training.weight_decay: 0.0 there, 0.5 here"):
        jobs.compare.run(config_of(town, training={**TRAINING, "weight_decay": 0.5}))


def test_compare_that_lacks_a_metric_is_scored_again_on_ray_with_the_judges_keys(
    town: str, compared: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = compared.model_copy(
        update={"metrics": {**compared.metrics, "missing": {"bleurt": "no such model"}}}
    )
    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr("jobs.output.read_manifest", lambda *arguments: lacking)
        patch.setattr(jobs.compare, "compare", lambda *arguments, **names: asked.append(names))
        jobs.compare.run(config_of(town, blind_sheet={"num_pairs": 3}))
    assert asked == [{"keys": {}}]


def test_compare_a_blind_sheet_of_a_finished_comparison_makes_nothing_again(
    town: str, compared: Manifest
) -> None:
    assert jobs.compare.run(config_of(town, blind_sheet={"num_pairs": 3})) == compared
    (sheet,) = (Path(town) / "comparison" / "blind-sheets").iterdir()
    assert len(json.loads((sheet / "key.json").read_text())["pairs"]) == 3


def test_compare_package_that_is_missing_is_named_before_any_work(
    town: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = config_of(town, contestants=["lora"], comparison=f"{town}/none")
    with pytest.raises(ModelError, match=r"lora needs the package peft.*xrec\[compare\]"):
        jobs.compare.run(config)
    assert not Path(town, "none").exists()


def test_compare_texts_of_unknown_pairs_end_it_before_anything_is_trained(
    ray_cluster: None, town: str, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"user_id": "nobody", "item_id": "x", "explanation": "y"}\n')
    config = config_of(
        town,
        contestants=["ours", "public"],
        texts={"public": {"uri": str(path)}},
        comparison=f"{town}/other",
    )
    with pytest.raises(DataError, match="'public': 1 of 1 texts are of pairs"):
        jobs.compare.run(config)
    assert not (Path(town) / "other" / "ours-0").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_compare_killed_ten_times_at_random_ends_with_the_same_table(
    compared: Manifest, town: str, tmp_path: Path
) -> None:
    """The driver and all of its processes are killed, at random once Ray is up; then none is."""
    training = {**COMPARISON["training"], "steps_per_checkpoint": 1}
    config = config_of(town, training=training, comparison=str(tmp_path / "killed"))
    project = write_project(tmp_path / "project.yaml", config)
    rng, log, num_kills = random.Random(0), tmp_path / "log", 0
    for _ in range(10):
        with driver("compare", project, log) as process:
            if not _works(process, log):
                break  # it ended before the kill
            time.sleep(rng.uniform(0, 15))
            if process.poll() is not None:
                break
            kill_family(process)
            num_kills += 1
    with driver("compare", project, log) as process:
        assert process.wait(timeout=1800) == 0, log.read_text()[-3000:]
    assert num_kills >= 3, log.read_text()[-3000:]
    assert without_times(tmp_path / "killed") == without_times(Path(town) / "comparison")


def _works(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until the driver works on an entry; False if it ends before."""
    start = log.stat().st_size if log.exists() else 0
    while process.poll() is None:
        with log.open("rb") as file:
            file.seek(start)
            if b"training" in file.read():
                return True
        time.sleep(0.2)
    return False


def without_times(comparison: Path) -> list[dict[str, Any]]:
    """The rows of the table, but those of measured times."""
    rows = pq.read_table(comparison / "table.parquet").to_pylist()
    return [row for row in rows if row["metric"] not in ("training_seconds", "pairs_per_second")]

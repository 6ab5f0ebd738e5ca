"""Six jobs on s3:// alone: each artifact is there, and names what it was made from."""

from pathlib import Path

from jobs.prepare import run
from xrec.config.data import PrepareConfig
from xrec.config.project import load_config
from xrec.data import read_dataset
from xrec.llm.model import load_tokenizer
from xrec.llm.source import resolve_model
from xrec.sample import ASPECTS
from xrec.storage import open_location, read_manifest

CONFIGS = Path(__file__).parents[2] / "configs"


def test_pipeline_on_s3_every_artifact_is_finished_and_names_its_inputs(pipeline):
    kinds = ("dataset", "llm", "graph", "adapter", "explanations", "evaluation")
    assert {
        kind: read_manifest(pipeline.location(kind), kind) for kind in kinds
    } == pipeline.manifests
    made = {kind: manifest.fingerprint for kind, manifest in pipeline.manifests.items()}
    inputs = {kind: manifest.inputs for kind, manifest in pipeline.manifests.items()}
    assert inputs["graph"] == {"dataset": made["dataset"]}
    model = {"base_model": inputs["adapter"]["base_model"]}
    data = {kind: made[kind] for kind in ("dataset", "graph")}
    assert inputs["adapter"] == {**data, **model}
    assert inputs["explanations"].items() >= {**data, **model, "adapter": made["adapter"]}.items()
    texts = {kind: made[kind] for kind in ("adapter", "explanations")}
    assert inputs["evaluation"] == {**data, **texts}


def test_pipeline_on_s3_writes_no_credentials(pipeline):
    """They came with the configs; no artifact and no log of a run may hold them."""
    keys = (pipeline.storage.secret_access_key, pipeline.storage.access_key_id)
    words = [key.get_secret_value().encode() for key in keys]
    for file in pipeline.location("").files():
        data = pipeline.location(file).read_bytes()
        assert not [word for word in words if word in data], file


def test_pipeline_on_s3_leaves_no_checkpoints_and_no_file_outside_its_artifacts(pipeline):
    files = pipeline.location("").files()
    assert {file.split("/")[0] for file in files} >= set(pipeline.manifests)
    assert not [file for file in files if "checkpoint" in file]


def test_build_sample_llm_on_s3_resolves_to_a_folder_with_the_same_files(pipeline, tmp_path):
    folder = resolve_model(f"{pipeline.workspace}/llm", str(tmp_path), pipeline.storage)
    location = pipeline.location("llm")
    assert sorted(path.name for path in folder.iterdir()) == location.files()
    assert all(
        (folder / name).read_bytes() == (location / name).read_bytes() for name in location.files()
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer("The café, late.")["input_ids"]) == "The café, late."


def test_prepare_sample_config_gives_the_town_as_a_dataset(tmp_path):
    config = load_config(PrepareConfig, CONFIGS / "sample.yaml", [f"workspace={tmp_path}"])
    manifest = run(config)
    dataset = read_dataset(open_location(config.artifact("dataset")))
    assert dataset.manifest == manifest
    assert (dataset.num_users, dataset.num_items) == (1200, 240)
    assert manifest.metrics["num_removed_edges"] == 0
    assert manifest.metrics["num_users_without_train_edge"] == 0
    assert dataset.aspects is not None
    assert dataset.item_aspects is not None
    names = dataset.aspects["aspect"].to_pylist()
    assert set(names) == set(ASPECTS)
    profiles = dataset.items["profile"].to_pylist()
    for row in dataset.item_aspects.to_pylist():  # what its visitors praise is what a place has
        assert names[row["aspect_index"]] in profiles[row["item_index"]].lower()
    # Each training visit mentions one aspect, and nothing of a held-out one is counted.
    num_visits = dataset.interaction_edges("train").shape[1]
    assert sum(dataset.aspects["num_reviews"].to_pylist()) == num_visits
    assert num_visits < dataset.interactions.num_rows

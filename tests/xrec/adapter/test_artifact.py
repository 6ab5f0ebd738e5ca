"""The adapter artifact and its model card."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.errors import raises
from tests.world.models import (
    EMBEDDING_DIM,
    HIDDEN_SIZE,
    attach_toy,
    save_toy_model,
    toy_adapter,
    toy_adapters,
    toy_model,
    toy_tokenizer,
)
from tests.world.workspace import save_random_graph
from xrec.adapter.artifact import TrainedAdapter, read_adapter, write_adapter
from xrec.adapter.model import Adapters
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.graph.artifact import read_graph
from xrec.llm.prompt import PairTexts
from xrec.llm.source import model_fingerprint, public_name
from xrec.storage import Location, open_location, write_manifest

ADAPTER = toy_adapter("direct")
CONFIG = ADAPTER.config
FILES = ["README.md", "adapter.safetensors", "adapter_config.json", "manifest.json"]


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "artifact"))


def write(
    location: Location, adapters: Adapters = ADAPTER.adapters, **changes: Any
) -> TrainedAdapter:
    given: dict[str, Any] = {"metrics": {}, "extra_files": {"history.json": b"[]"}, **changes}
    write_adapter(location, adapters.state_dict(), CONFIG, run_config={}, inputs={}, **given)
    return read_adapter(location)


def same(one: TrainedAdapter, other: TrainedAdapter) -> bool:
    states = (safetensors.torch.save(each.adapters.state_dict()) for each in (one, other))
    return one.config == other.config and len(set(states)) == 1


def test_adapter_is_read_back_equal_and_has_no_weight_of_the_model(location):
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


def test_fingerprint_depends_on_config_and_weights_but_not_on_card_log_and_metrics(location):
    first = write(location).fingerprint
    log = {"metrics": {"loss": 2.0}, "extra_files": {"history.json": b"[1]"}, "card": "Mine."}
    assert write(location, **log).fingerprint == first
    assert write(location, toy_adapters("direct", seed=1)).fingerprint != first


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter_config.json"])
def test_adapter_with_a_changed_file_is_refused(location, name):
    write(location)
    (location / name).write_bytes(b"other")
    with raises(ArtifactMismatchError, "changed_file", key=name):
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


def test_pretrained_without_a_manifest_is_read_but_is_no_artifact(tmp_path):
    ADAPTER.save_pretrained(tmp_path)
    read = TrainedAdapter.from_pretrained(tmp_path)
    assert same(read, ADAPTER)
    assert (read.manifest, read.fingerprint) == (None, ADAPTER.fingerprint)
    with raises(ArtifactNotFoundError, "no_artifact", key="adapter"):
        read_adapter(open_location(str(tmp_path)))  # a job takes artifacts only
    for name in ("adapter.safetensors", "adapter_config.json"):
        (tmp_path / name).unlink()
        with raises(ArtifactNotFoundError, "missing_file", key=name):
            TrainedAdapter.from_pretrained(tmp_path)
    write_manifest(open_location(str(tmp_path)), "graph", config={}, inputs={}, files={})
    with raises(ArtifactMismatchError, "another_kind", saw="graph"):
        TrainedAdapter.from_pretrained(tmp_path)


def test_pretrained_from_the_hub_is_downloaded_by_its_id(tmp_path, monkeypatch):
    """The hub's own client finds it in a cache folder; tests have no network."""
    revision, repository = "0" * 40, tmp_path / "models--someone--adapter"
    ADAPTER.save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(TrainedAdapter.from_pretrained("someone/adapter"), ADAPTER)
    with raises(ArtifactNotFoundError, "adapter_not_given", saw="someone/nothing"):
        TrainedAdapter.from_pretrained("someone/nothing")


STATE = ADAPTER.adapters.state_dict()


def config_with(**changes: object) -> bytes:
    return json.dumps({**CONFIG.model_dump(mode="json"), **changes}).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter.safetensors", b""),
        ("adapter.safetensors", safetensors.torch.save(STATE)[:-1]),
        ("adapter.safetensors", safetensors.torch.save({**STATE, "lm_head": torch.zeros(2)})),
        ("adapter.safetensors", safetensors.torch.save({"item.gate": STATE["item.gate"]})),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", config_with(num_tokens=4)),
        ("adapter_config.json", config_with(hidden_size="wide")),
    ],
)
def test_pretrained_with_a_broken_file_is_refused(tmp_path, name, content):
    ADAPTER.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with raises(ArtifactMismatchError, "broken_file"):
        TrainedAdapter.from_pretrained(tmp_path)


@pytest.fixture
def published(tmp_path):
    """A folder with `llm`, `graph` and a pretrained `adapter`."""
    llm = save_toy_model(tmp_path / "llm")
    graph = save_random_graph(tmp_path / "graph", 4, 3, "d")
    known = {
        "base_model": public_name(str(llm)),  # no path of this machine
        "base_model_fingerprint": model_fingerprint(llm),
        "graph_fingerprint": graph.fingerprint,
    }
    toy_adapter("projected", **known).save_pretrained(tmp_path / "adapter")
    return tmp_path


def test_card_code_runs_with_other_paths(published, capsys):
    card = (published / "adapter" / "README.md").read_text()
    assert str(published) not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for name in ("path/to/adapter", "path/to/graph", "llm"):
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', repr(str(published / Path(name).name)))
    names: dict[str, Any] = {}
    exec(code, names)
    assert "Likes quiet places." in names["prompts"].show(names["prompt"])
    assert "<user 0>" in names["prompts"].show(names["prompt"])
    assert capsys.readouterr().out.strip()
    assert "# the model writes [title]" in card


def test_attach_model_with_penalties_generates_past_collaborative_tokens(published):
    """Penalties for repeated prompt tokens must not reach a user's token, which has no logit.

    Some models, such as Qwen's, come with generation settings that have such penalties.
    """
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    model, tokenizer = adapter.load_base_model(str(published / "llm"))
    model.generation_config.update(repetition_penalty=1.1, no_repeat_ngram_size=1)
    prompts = adapter.attach(model, tokenizer, read_graph(open_location(str(published / "graph"))))
    prompt = prompts.build(3, 2, PairTexts("", "Luna", ""))
    output = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)
    assert output[0, : len(prompt)].tolist() == prompt
    assert 0 <= output[0, len(prompt) :].max() < model.config.vocab_size


def test_another_graph_is_refused(published):
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    save_random_graph(published / "graph-2", 4, 3, "e")
    graph = read_graph(open_location(str(published / "graph-2")))
    with raises(ArtifactMismatchError, "another_graph", saw=graph.manifest.fingerprint):
        adapter.attach(toy_model(), toy_tokenizer(), graph)

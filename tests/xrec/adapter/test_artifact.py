"""The adapter artifact: it is read as it was written, and refuses another model or graph."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.toy import (
    EMBEDDING_DIM,
    HIDDEN_SIZE,
    attach_toy,
    save_adapter,
    save_random_graph,
    save_toy_model,
    toy_adapter,
    toy_adapters,
    toy_model,
    toy_tokenizer,
)
from xrec.adapter.artifact import AdapterConfig, TrainedAdapter, read_adapter, write_adapter
from xrec.adapter.model import Adapters
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.graph.artifact import read_graph
from xrec.llm.prompt import PairTexts
from xrec.llm.source import model_fingerprint, public_name
from xrec.storage import Location, content_hash, open_location, write_manifest

ADAPTER = toy_adapter("direct")
CONFIG = ADAPTER.config
METHOD = Path(__file__).parents[3] / "docs" / "method.md"
FILES = ["adapter.safetensors", "adapter_config.json", "manifest.json"]


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "artifact"))


def write(
    location: Location,
    adapters: Adapters = ADAPTER.adapters,
    config: AdapterConfig = CONFIG,
    **changes: Any,
) -> TrainedAdapter:
    log = {"history.json": b"[]"}
    save_adapter(TrainedAdapter(adapters, config), location.path, **{"extra_files": log, **changes})
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


def test_fingerprint_is_of_config_and_weights_and_not_of_log_and_metrics(location):
    first = write(location).fingerprint
    log = {"metrics": {"loss": 2.0}, "extra_files": {"history.json": b"[1]"}}
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


def test_artifact_is_read_from_s3(s3):
    uri = f"{s3.new_bucket()}/published/adapter"
    location = open_location(uri, s3.storage)
    state = ADAPTER.adapters.state_dict()
    about = {"run_config": {}, "inputs": {}, "metrics": {}, "extra_files": {}}
    write_adapter(location, state, CONFIG, **about)
    assert same(TrainedAdapter.from_pretrained(uri, storage=s3.storage), ADAPTER)
    with pytest.raises(ArtifactNotFoundError, match=r"manifest\.json is missing"):
        TrainedAdapter.from_pretrained(f"{uri}-2", storage=s3.storage)


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
def test_file_that_this_version_cannot_read_is_refused(location, name, content, message):
    manifest = write(location).manifest
    if name == "adapter_config.json" and isinstance(content, dict):
        there = json.loads((location / name).read_text())
        content = json.dumps({**there, **content}).encode()
    elif isinstance(content, dict):
        content = safetensors.torch.save(content)
    (location / name).write_bytes(content)
    files = {**manifest.files, name: content_hash(content)}
    write_manifest(location, "adapter", config={}, inputs={}, files=files)
    with pytest.raises(ArtifactMismatchError, match=message):
        read_adapter(location)


def test_artifact_without_weights_or_of_another_kind_is_refused(location):
    write(location)
    (location / "adapter.safetensors").delete()
    with pytest.raises(ArtifactMismatchError, match=r"adapter\.safetensors.*train the adapter"):
        read_adapter(location)
    write_manifest(location, "graph", config={}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError, match="a graph artifact, expected a adapter"):
        read_adapter(location)


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A folder with llm, graph and adapter, as docs/method.md has them; it is the current one."""
    monkeypatch.chdir(tmp_path)
    folder = Path("workspace/sample")
    llm = save_toy_model(folder / "llm")
    graph = save_random_graph(folder / "graph", 4, 3, "d")
    known = {
        "base_model": public_name(str(llm)),
        "base_model_fingerprint": model_fingerprint(llm),
        "graph_fingerprint": graph.fingerprint,
    }
    save_adapter(toy_adapter("projected", **known), folder / "adapter")
    return folder


def test_code_of_the_docs_runs_as_it_stands(town):
    code = re.search(
        r"(?:^    .*\n|^\n)*^    adapter = .*\n(?:^    .*\n)*", METHOD.read_text(), re.M
    )
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code[0]), names)
    assert "<user 0>" in names["prompts"].show(names["prompt"])
    output = names["model"].generate(torch.tensor([names["prompt"]]), max_new_tokens=4)
    assert output.shape[1] > len(names["prompt"])


def test_attach_model_with_penalties_generates_past_collaborative_tokens(town):
    """Penalties for repeated prompt tokens must not reach a user's token, which has no logit.

    Some models, such as Qwen's, come with generation settings that have such penalties.
    """
    adapter = TrainedAdapter.from_pretrained(town / "adapter")
    model, tokenizer = adapter.load_base_model(str(town / "llm"))
    model.generation_config.update(repetition_penalty=1.1, no_repeat_ngram_size=1)
    prompts = adapter.attach(model, tokenizer, read_graph(open_location(str(town / "graph"))))
    prompt = prompts.build(3, 2, PairTexts("", "Luna", ""))
    output = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)
    assert output[0, : len(prompt)].tolist() == prompt
    assert 0 <= output[0, len(prompt) :].max() < model.config.vocab_size


def test_another_model_or_graph_is_refused(town):
    adapter = TrainedAdapter.from_pretrained(town / "adapter")
    other = save_toy_model(town / "other", seed=1)
    with pytest.raises(ArtifactMismatchError, match="but the adapter was trained for 'llm'"):
        adapter.load_base_model(str(other))
    save_random_graph(town / "graph-2", 4, 3, "e")
    graph = read_graph(open_location(str(town / "graph-2")))
    with pytest.raises(ArtifactMismatchError, match="the adapter was trained on graph"):
        adapter.attach(toy_model(), toy_tokenizer(), graph)

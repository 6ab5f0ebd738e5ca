"""The model card: front matter for the hub, facts for a user, no local path, and code that runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.world.models import save_toy_model, toy_adapter, toy_model, toy_tokenizer
from tests.world.workspace import save_random_graph
from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.card import model_card
from xrec.errors import ArtifactMismatchError
from xrec.graph.artifact import read_graph
from xrec.llm.prompt import PairTexts
from xrec.llm.source import model_fingerprint, public_name
from xrec.storage import Manifest, open_location, write_manifest

ADAPTER = toy_adapter("projected", base_model="owner/model", graph_fingerprint="beef")
CONFIG = ADAPTER.config
METRICS = {
    "epoch": 3,
    "step": 120,
    "train_loss": 1.25,
    "validation_loss": 1.5,
    "num_train_pairs": 1755,
    "seconds": 3.0,
}


def dataset(folder: Path) -> Manifest:
    return write_manifest(
        open_location(str(folder)),
        "dataset",
        config={"source": {"kind": "xrec_release"}},
        inputs={},
        files={},
        row_counts={"users": 15_962, "items": 14_085},
    )


def test_card_has_the_front_matter_of_the_hub_and_what_a_user_must_know(tmp_path):
    data = dataset(tmp_path)
    card = model_card(CONFIG, license="mit", dataset=data, metrics=METRICS)
    values = yaml.safe_load(card.split("---\n")[1])
    assert "recommendation" in values.pop("tags")
    assert values == {
        "base_model": "owner/model",
        "base_model_relation": "adapter",
        "library_name": "xrec",
        "license": "mit",
        "pipeline_tag": "text-generation",
    }
    for fact in (
        "15,962 users, 14,085 items",
        data.fingerprint,
        "- validation loss, nats a token: 1.5",
        "- training pairs used: 1,755",
        "`owner/model`, fingerprint `model-1`",
        "fingerprint `beef`",
        "`mit`",
    ):
        assert fact in card


def test_card_without_facts_says_so_and_claims_none():
    card = model_card(CONFIG.model_copy(update={"base_model": "llm"}))
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["license"] == "unknown"
    assert "base_model" not in values
    assert card.count("not recorded.") == 2
    assert "Not stated." in card
    assert "None" not in card


@pytest.fixture
def published(tmp_path):
    """A folder with llm, graph and, as `adapter`, what save_pretrained writes."""
    llm = save_toy_model(tmp_path / "llm")
    graph = save_random_graph(tmp_path / "graph", 4, 3, "d")
    known = {
        "base_model": public_name(str(llm)),  # no path of this machine
        "base_model_fingerprint": model_fingerprint(llm),
        "graph_fingerprint": graph.fingerprint,
    }
    toy_adapter("projected", **known).save_pretrained(tmp_path / "adapter")
    return tmp_path


def test_card_code_runs_as_it_stands_but_for_the_paths(published, capsys):
    card = (published / "adapter" / "README.md").read_text()
    assert str(published) not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    paths = {
        '"path/to/adapter"': published / "adapter",
        '"path/to/graph"': published / "graph",
        '"llm"': published / "llm",
    }
    for name, path in paths.items():
        assert name in code
        code = code.replace(name, repr(str(path)))
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


def test_another_model_or_graph_is_refused(published):
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    other = save_toy_model(published / "other", seed=1)
    with pytest.raises(ArtifactMismatchError, match="but the adapter was trained for 'llm'"):
        adapter.load_base_model(str(other))
    save_random_graph(published / "graph-2", 4, 3, "e")
    graph = read_graph(open_location(str(published / "graph-2")))
    with pytest.raises(ArtifactMismatchError, match="the adapter was trained on graph"):
        adapter.attach(toy_model(), toy_tokenizer(), graph)

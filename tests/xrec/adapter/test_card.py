"""The model card: front matter for the hub, facts for a user, no local path, and code that runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from tests.toy import HIDDEN_SIZE, save_toy_model, toy_model, toy_tokenizer
from xrec.adapter.artifact import AdapterConfig, TrainedAdapter
from xrec.adapter.card import model_card, with_evaluation
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig, CardConfig
from xrec.config.prompt import PromptConfig
from xrec.errors import ArtifactMismatchError
from xrec.graph import embeddings_bytes, read_graph, write_graph
from xrec.llm.prompt import PairTexts
from xrec.llm.source import model_fingerprint, public_name
from xrec.storage import Manifest, open_location, write_manifest

D = 6
CONFIG = AdapterConfig(
    embedding_dim=D,
    hidden_size=HIDDEN_SIZE,
    model=AdapterModelConfig(num_experts=3, injection="projected"),
    prompt=PromptConfig(instruction="Why?"),
    base_model="owner/model",
    base_model_fingerprint="feed",
    graph_fingerprint="beef",
)
METRICS = {
    "epoch": 3,
    "step": 120,
    "train_loss": 1.25,
    "validation_loss": 1.5,
    "num_train_pairs": 1755,
    "seconds": 3.0,
}


def manifest(folder: Path, kind: Any, **values: Any) -> Manifest:
    return write_manifest(
        open_location(str(folder)), kind, **{"config": {}, "inputs": {}, "files": {}, **values}
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    counts = {
        "num_explanations": {"train": 1755, "validation": 250, "test": 500},
        "num_interactions": {"train": 9, "validation": 8, "test": 7},
    }
    rows = {"users": 15_962, "items": 14_085, "interactions": 24}
    return manifest(
        tmp_path / "dataset",
        "dataset",
        config={"source": {"kind": "xrec_release"}},
        row_counts=rows,
        metrics=counts,
    )


@pytest.fixture
def evaluation(tmp_path: Path) -> Manifest:
    metrics = {
        "personalization_gain": 0.171,
        "personalization_gain_low": 0.156,
        "personalization_gain_high": 0.186,
        "bleu": 39.1,
    }
    inputs = {"adapter": "a", "dataset": "cafe"}
    return manifest(
        tmp_path / "evaluation",
        "evaluation",
        config={"split": "test"},
        inputs=inputs,
        row_counts={"pairs": 200},
        metrics=metrics,
    )


def front_matter(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes, as the hub's documentation says."""
    values: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return values


def test_card_front_matter_is_what_the_hub_reads(dataset: Manifest) -> None:
    settings = CardConfig(name="Yelp", license="mit", language="en", datasets=("owner/yelp",))
    values = front_matter(model_card(CONFIG, settings=settings, dataset=dataset, metrics=METRICS))
    (model,) = values.pop("model-index")
    assert values == {
        "base_model": "owner/model",
        "base_model_relation": "adapter",
        "datasets": ["owner/yelp"],
        "language": "en",
        "library_name": "xrec",
        "license": "mit",
        "metrics": ["loss"],
        "pipeline_tag": "text-generation",
        "tags": [
            "xrec",
            "adapter",
            "recommendation",
            "explainable-recommendation",
            "collaborative-filtering",
        ],
    }
    (result,) = model["results"]
    assert model["name"] == "Yelp"
    assert result["dataset"]["split"] == "validation"
    assert result["dataset"]["name"] == f"xrec dataset {dataset.fingerprint}"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("loss", 1.5)]


def test_card_body_says_what_a_user_must_know(dataset: Manifest) -> None:
    card = model_card(
        CONFIG,
        settings=CardConfig(license="mit"),
        dataset=dataset,
        metrics=METRICS,
    )
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == [
        "Data",
        "Metrics",
        "Base model",
        "Graph",
        "How to use",
        "Licence",
        "Limits",
    ]
    for fact in (
        "15,962 users, 14,085 items",
        "| explained pairs | 1,755 | 250 | 500 |",
        "| interactions | 9 | 8 | 7 |",
        dataset.fingerprint,
    ):
        assert fact in card
    for fact in (
        "| validation loss, nats a token | 1.5 |",
        "| epoch that was kept | 3 |",
        "`owner/model`, fingerprint `feed`",
        "Fingerprint `beef`",
    ):
        assert fact in card
    assert "`mit`" in card


def test_card_without_facts_says_so_and_claims_none() -> None:
    card = model_card(CONFIG.model_copy(update={"base_model": "llm"}))
    values = front_matter(card)
    assert values["license"] == "unknown"
    assert not {"base_model", "datasets", "metrics", "model-index", "language"} & set(values)
    assert card.count("Not recorded.") == 2
    assert "Not stated." in card
    assert "None" not in card


def test_card_with_evaluation_has_its_metrics_once_however_often_it_is_added(
    dataset: Manifest, evaluation: Manifest
) -> None:
    card = model_card(CONFIG, dataset=dataset, metrics=METRICS) + "\nA note of the author.\n"
    once = with_evaluation(card, evaluation)
    twice = with_evaluation(once, evaluation)
    assert twice == once
    assert "A note of the author." in once
    assert "200 pairs of the test split" in once
    assert "| personalization_gain | 0.171 | 0.156 to 0.186 |" in once
    assert "| bleu | 39.1 |  |" in once
    results = {
        (result.metric_type, result.dataset_split): result.metric_value
        for result in ModelCard(once).data.eval_results
    }
    assert results == {
        ("loss", "validation"): 1.5,
        ("personalization_gain", "test"): 0.171,
        ("bleu", "test"): 39.1,
    }
    assert front_matter(once)["metrics"] == ["loss", "personalization_gain", "bleu"]


def test_card_and_config_hold_no_local_path(tmp_path: Path) -> None:
    folder = save_toy_model(tmp_path / "alice" / "toy-llm")
    config = CONFIG.model_copy(update={"base_model": public_name(str(folder))})
    assert config.base_model == "toy-llm"
    assert str(tmp_path) not in model_card(config) + config.model_dump_json()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with llm, graph and, as `adapter`, what save_pretrained writes."""
    llm = save_toy_model(tmp_path / "llm")
    torch.manual_seed(0)
    vectors = embeddings_bytes(torch.randn(4, D), torch.randn(3, D))
    graph = write_graph(
        open_location(str(tmp_path / "graph")),
        vectors,
        [],
        config={},
        inputs={"dataset": "d"},
        metrics={},
    )
    known = {
        "base_model": "llm",
        "base_model_fingerprint": model_fingerprint(llm),
        "graph_fingerprint": graph.fingerprint,
    }
    adapters = build_adapters(CONFIG.model, embedding_dim=D, hidden_size=HIDDEN_SIZE)
    TrainedAdapter(adapters, CONFIG.model_copy(update=known)).save_pretrained(tmp_path / "adapter")
    return tmp_path


def test_card_code_runs_as_it_stands_but_for_the_paths(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (published / "adapter" / "README.md").read_text()
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


def test_attach_model_with_penalties_generates_past_collaborative_tokens(published: Path) -> None:
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


def test_load_base_model_refuses_another_model(published: Path) -> None:
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    other = save_toy_model(published / "other", seed=1)
    with pytest.raises(ArtifactMismatchError, match="but the adapter was trained for 'llm'"):
        adapter.load_base_model(str(other))


def test_attach_refuses_another_graph_or_a_model_of_another_width(published: Path) -> None:
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    graph = read_graph(open_location(str(published / "graph")))
    wider = toy_model(vocab_size=len(toy_tokenizer()))
    wider.config.hidden_size = 2 * HIDDEN_SIZE
    with pytest.raises(
        ArtifactMismatchError,
        match=f"LlamaForCausalLM has hidden_size {2 * HIDDEN_SIZE}, "
        "the adapter was trained for 'llm' with",
    ):
        adapter.attach(wider, toy_tokenizer(), graph)
    other = TrainedAdapter(
        adapter.adapters, adapter.config.model_copy(update={"graph_fingerprint": "another"})
    )
    model = toy_model(vocab_size=len(toy_tokenizer()))
    with pytest.raises(ArtifactMismatchError, match="the adapter was trained on graph another"):
        other.attach(model, toy_tokenizer(), graph)

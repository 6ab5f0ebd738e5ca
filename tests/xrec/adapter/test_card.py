"""The model card: front matter for the hub, facts for a user, no local path, and code that runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from tests.toy import HIDDEN_SIZE, save_toy_model, toy_model, toy_tokenizer
from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.card import model_card, with_evaluation
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig, CardConfig
from xrec.config.prompt import PromptConfig
from xrec.errors import ArtifactMismatchError
from xrec.graph.artifact import embeddings_bytes, read_graph, write_graph
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
    return write_manifest(open_location(str(folder)), kind, files={}, **values)


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    counts = {
        "num_explanations": {"train": 1755, "validation": 250, "test": 500},
        "num_interactions": {"train": 9, "validation": 8, "test": 7},
    }
    return manifest(
        tmp_path / "dataset",
        "dataset",
        config={"source": {"kind": "xrec_release"}},
        inputs={},
        row_counts={"users": 15_962, "items": 14_085, "interactions": 24},
        metrics=counts,
    )


@pytest.fixture
def evaluation(tmp_path: Path) -> Manifest:
    gain = {"": 0.171, "_low": 0.156, "_high": 0.186}
    return manifest(
        tmp_path / "evaluation",
        "evaluation",
        config={"split": "test"},
        inputs={"adapter": "a", "dataset": "cafe"},
        row_counts={"pairs": 200},
        metrics={**{f"personalization_gain{end}": gain[end] for end in gain}, "bleu": 39.1},
    )


def front_matter(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes, as the hub's documentation says."""
    values: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return values


def test_card_front_matter_is_what_the_hub_reads(dataset: Manifest) -> None:
    settings = CardConfig(name="Yelp", license="mit")
    values = front_matter(model_card(CONFIG, settings=settings, dataset=dataset, metrics=METRICS))
    (model,) = values.pop("model-index")
    assert {"xrec", "adapter", "recommendation"} <= set(values.pop("tags"))
    assert values == {
        "base_model": "owner/model",
        "base_model_relation": "adapter",
        "library_name": "xrec",
        "license": "mit",
        "metrics": ["loss"],
        "pipeline_tag": "text-generation",
    }
    (result,) = model["results"]
    assert model["name"] == "Yelp"
    assert result["dataset"]["split"] == "validation"
    assert result["dataset"]["name"] == f"xrec dataset {dataset.fingerprint}"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("loss", 1.5)]


def test_card_body_says_what_a_user_must_know(dataset: Manifest) -> None:
    settings = CardConfig(license="mit")
    card = model_card(CONFIG, settings=settings, dataset=dataset, metrics=METRICS)
    sections = ["Data", "Metrics", "Base model", "Graph", "How to use", "Licence", "Limits"]
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == sections
    for fact in (
        "15,962 users, 14,085 items",
        "| explained pairs | 1,755 | 250 | 500 |",
        "| interactions | 9 | 8 | 7 |",
        dataset.fingerprint,
        "| validation loss, nats a token | 1.5 |",
        "| epoch that was kept | 3 |",
        "`owner/model`, fingerprint `feed`",
        "Fingerprint `beef`",
        "`mit`",
    ):
        assert fact in card


def test_card_without_facts_says_so_and_claims_none() -> None:
    card = model_card(CONFIG.model_copy(update={"base_model": "llm"}))
    values = front_matter(card)
    assert values["license"] == "unknown"
    assert not {"base_model", "metrics", "model-index"} & set(values)
    assert card.count("Not recorded.") == 2
    assert "Not stated." in card
    assert "None" not in card


def test_card_with_evaluation_has_its_metrics_once_however_often_it_is_added(
    dataset: Manifest, evaluation: Manifest
) -> None:
    card = model_card(CONFIG, dataset=dataset, metrics=METRICS) + "\nA note of the author.\n"
    once = with_evaluation(card, evaluation)
    assert with_evaluation(once, evaluation) == once
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


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with llm, graph and, as `adapter`, what save_pretrained writes."""
    llm = save_toy_model(tmp_path / "llm")
    torch.manual_seed(0)
    vectors = embeddings_bytes(torch.randn(4, D), torch.randn(3, D))
    location, of = open_location(str(tmp_path / "graph")), {"dataset": "d"}
    graph = write_graph(location, vectors, [], config={}, inputs=of, metrics={})
    known = {
        "base_model": public_name(str(llm)),  # no path of this machine
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


def test_another_model_or_graph_or_a_model_of_another_width_is_refused(published: Path) -> None:
    adapter = TrainedAdapter.from_pretrained(published / "adapter")
    graph = read_graph(open_location(str(published / "graph")))
    changed = adapter.config.model_copy(update={"graph_fingerprint": "another"})
    of_another = TrainedAdapter(adapter.adapters, changed)
    wider = toy_model(vocab_size=len(toy_tokenizer()))
    wider.config.hidden_size = 2 * HIDDEN_SIZE
    other = save_toy_model(published / "other", seed=1)
    refusals: dict[str, Callable[[], object]] = {
        "but the adapter was trained for 'llm'": lambda: adapter.load_base_model(str(other)),
        "LlamaForCausalLM has hidden_size 64, the adapter was trained for 'llm' with": (
            lambda: adapter.attach(wider, toy_tokenizer(), graph)
        ),
        "the adapter was trained on graph another": (
            lambda: of_another.attach(toy_model(), toy_tokenizer(), graph)
        ),
    }
    for message, refused in refusals.items():
        with pytest.raises(ArtifactMismatchError, match=message):
            refused()

"""What a backfill needs, without training: a small catalogue, a random model, graph and adapter."""

from pathlib import Path

import pytest
import torch

from tests.toy import save_graph
from tests.xrec.backfill.runs import Runs
from tests.xrec.recommend.catalogue import make_dataset
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.prompt import PromptConfig
from xrec.llm.source import model_fingerprint
from xrec.sample.language_model import build_model, train_tokenizer
from xrec.storage import open_location

NUM_USERS, NUM_ITEMS, DIM, HIDDEN = 12, 6, 4, 32
MAX_PROMPT_TOKENS = 150
# With tied weights and no training the model repeats the prompt's last token. Without a chat
# template that is a colon, and not a line break.
PROMPT = PromptConfig(instruction="Why?", max_prompt_tokens=MAX_PROMPT_TOKENS)


def _save_llm(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    tokenizer = train_tokenizer(["A quiet place with a garden for a guest."], 300)
    build_model(tokenizer, hidden_size=HIDDEN, num_layers=1).save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


def _save_adapter(root: Path, inputs: dict[str, str]) -> None:
    model = AdapterModelConfig(num_experts=2)
    config = AdapterConfig(
        embedding_dim=DIM,
        hidden_size=HIDDEN,
        model=model,
        prompt=PROMPT,
        base_model=str(root / "llm"),
        base_model_fingerprint=inputs["base_model"],
        graph_fingerprint=inputs["graph"],
    )
    weights = build_adapters(model, embedding_dim=DIM, hidden_size=HIDDEN).state_dict()
    made = {"run_config": {}, "inputs": inputs, "metrics": {}, "extra_files": {}}
    write_adapter(open_location(str(root / "adapter")), weights, config, **made)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Dataset, graph, adapter and language model on the local disk; tests must not change them.

    Users u0.., items i0.., and an item `wordy` whose profile is too long for a prompt.
    """
    root = tmp_path_factory.mktemp("backfill")
    _save_llm(root / "llm")
    users = [{"user_id": f"u{n}", "profile": f"Guest number {n}."} for n in range(NUM_USERS)]
    garden = "Quiet, with a garden."
    items = [
        {"item_id": f"i{n}", "title": f"Place {n}", "profile": garden} for n in range(NUM_ITEMS - 1)
    ]
    items.append({"item_id": "wordy", "title": "Wordy", "profile": "garden " * MAX_PROMPT_TOKENS})
    seen = [(user, (user + step) % (NUM_ITEMS - 1)) for user in range(12) for step in range(3)]
    dataset = make_dataset(root, users, items, seen, explained="u0 i4")
    vectors = torch.randn(NUM_USERS, DIM), torch.randn(NUM_ITEMS, DIM)
    graph = save_graph(root / "graph", *vectors, dataset).fingerprint
    base_model = model_fingerprint(root / "llm")
    _save_adapter(root, {"dataset": dataset, "graph": graph, "base_model": base_model})
    return root


@pytest.fixture
def runs(workspace, tmp_path):
    """Backfills over `workspace`, with output in the test's own folder."""
    return Runs(workspace, tmp_path)

"""A small town without training and without Ray: dataset, graph, a toy language model, adapters."""

from pathlib import Path
from typing import Any

import torch

from jobs.prepare import run as prepare_dataset
from tests.toy import HIDDEN_SIZE, save_graph, save_toy_model
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.data import PrepareConfig
from xrec.config.prompt import PromptConfig
from xrec.llm.source import model_fingerprint
from xrec.storage import Manifest, open_location

NUM_USERS, NUM_ITEMS, DIM = 12, 10, 6
TOWN = {
    "kind": "sample",
    "num_users": NUM_USERS,
    "num_items": NUM_ITEMS,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}


def make_town(root: Path) -> Path:
    """Make everything but explanations in `root` and return `root`.

    `adapter` and `adapter-2` are for the same graph and model.
    """
    source = {"workspace": str(root), "source": TOWN}
    dataset = prepare_dataset(PrepareConfig.model_validate(source))
    graph = make_graph(root / "graph", dataset.fingerprint)
    base_model = model_fingerprint(save_toy_model(root / "llm"))
    for seed, name in enumerate(("adapter", "adapter-2")):
        make_adapter(root / name, graph.fingerprint, base_model, seed)
    return root


def make_graph(folder: Path, dataset: str) -> Manifest:
    """Write a graph of random vectors."""
    torch.manual_seed(0)
    users, items = torch.randn(NUM_USERS, DIM), torch.randn(NUM_ITEMS, DIM)
    return save_graph(folder, users, items, dataset)


def make_adapter(folder: Path, graph: str, base_model: str, seed: int = 0, **prompt: Any) -> None:
    """Write an adapter of large random weights, so that its vectors change the model's texts."""
    torch.manual_seed(seed)
    model = AdapterModelConfig(num_experts=2)
    adapters = build_adapters(model, embedding_dim=DIM, hidden_size=HIDDEN_SIZE)
    for part in (adapters.user, adapters.item):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
    config = AdapterConfig(
        embedding_dim=DIM,
        hidden_size=HIDDEN_SIZE,
        model=model,
        prompt=PromptConfig(instruction="Why?", max_prompt_tokens=400, **prompt),
        base_model="toy",
        base_model_fingerprint=base_model,
        graph_fingerprint=graph,
    )
    about = {"run_config": {"seed": seed}, "inputs": {}, "metrics": {}, "extra_files": {}}
    write_adapter(open_location(str(folder)), adapters.state_dict(), config, **about)

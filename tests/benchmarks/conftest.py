"""A town with all artifacts, made once: toy language model, random vectors, random adapter."""

from pathlib import Path

import pytest
import torch

from jobs.prepare import run as prepare_dataset
from jobs.train_aspects import run as train_aspects
from tests.toy import HIDDEN_SIZE, save_toy_model
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.aspects import TrainAspectsConfig
from xrec.config.data import PrepareConfig
from xrec.config.prompt import PromptConfig
from xrec.graph import embeddings_bytes, write_graph
from xrec.llm.source import model_fingerprint
from xrec.storage import open_location, read_manifest

NUM_USERS, NUM_ITEMS, D = 40, 30, 6
TOWN = {
    "kind": "sample",
    "num_users": NUM_USERS,
    "num_items": NUM_ITEMS,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}


@pytest.fixture(autouse=True)
def threads():
    """A benchmark sets the number of torch's threads, which the next test has as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_adapter(workspace: Path, name: str, num_aspects: int) -> None:
    """Write an adapter of random weights, whose prompts have so many aspects."""
    model = AdapterModelConfig(num_experts=2)
    config = AdapterConfig(
        embedding_dim=D,
        hidden_size=HIDDEN_SIZE,
        model=model,
        prompt=PromptConfig(instruction="Why?", aspects=num_aspects),
        base_model="toy",
        base_model_fingerprint=model_fingerprint(workspace / "llm"),
        graph_fingerprint=read_manifest(open_location(f"{workspace}/graph"), "graph").fingerprint,
    )
    torch.manual_seed(0)
    state = build_adapters(model, embedding_dim=D, hidden_size=HIDDEN_SIZE).state_dict()
    location = open_location(f"{workspace}/{name}")
    write_adapter(location, state, config, run_config={}, inputs={}, metrics={}, extra_files={})


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with dataset, graph, llm, aspects, and adapters with and without aspects."""
    folder = tmp_path_factory.mktemp("town")
    given = {"workspace": str(folder)}
    dataset = prepare_dataset(PrepareConfig.model_validate({**given, "source": TOWN}))
    save_toy_model(folder / "llm")
    torch.manual_seed(0)
    write_graph(
        open_location(str(folder / "graph")),
        embeddings_bytes(torch.randn(NUM_USERS, D), torch.randn(NUM_ITEMS, D)),
        [],
        config={"model": {"embedding_dim": D}},
        inputs={"dataset": dataset.fingerprint},
        metrics={},
    )
    train_aspects(TrainAspectsConfig.model_validate(given))
    make_adapter(folder, "adapter", 2)
    make_adapter(folder, "plain-adapter", 0)
    return folder

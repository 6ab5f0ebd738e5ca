"""What a backfill needs, without training: a small catalogue, a random model, graph and adapter."""

import pytest

from tests.world.models import save_toy_model
from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import make_adapter, save_random_graph
from tests.xrec.backfill.runs import Runs
from xrec.config import EngineConfig
from xrec.generate.loading import load_explainer, sources_of
from xrec.llm.source import model_fingerprint

NUM_USERS, NUM_ITEMS = 12, 6


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Dataset, graph, adapter and language model on the local disk; tests must not change them.

    Users u0.., items i0.., and an item `wordy` whose profile is too long for a prompt.
    """
    root = tmp_path_factory.mktemp("backfill")
    users = [{"user_id": f"u{n}", "profile": f"Guest number {n}."} for n in range(NUM_USERS)]
    garden = "Quiet, with a garden."
    items = [
        {"item_id": f"i{n}", "title": f"Place {n}", "profile": garden} for n in range(NUM_ITEMS - 1)
    ]
    items.append({"item_id": "wordy", "title": "Wordy", "profile": "garden " * 400})
    seen = [(user, (user + step) % (NUM_ITEMS - 1)) for user in range(12) for step in range(3)]
    explained = pair_rows((0, 4), explanation="Quiet.", split="test")
    tables = {"users": users, "items": items, "interactions": pair_rows(*seen, split="train")}
    dataset = make_dataset(root, **tables, explanations=explained)
    graph = save_random_graph(root / "graph", NUM_USERS, NUM_ITEMS, dataset).fingerprint
    make_adapter(root / "adapter", graph, model_fingerprint(save_toy_model(root / "llm")))
    return root


@pytest.fixture(scope="session")
def explainer(workspace):
    """The workspace's explainer, with the engine that it has; tests must not change it."""
    sources = sources_of(Runs(workspace, workspace).config())
    return load_explainer(sources, device="cpu", engine=EngineConfig())


@pytest.fixture
def runs(workspace, tmp_path):
    """Backfills over `workspace`, with output in the test's own folder."""
    return Runs(workspace, tmp_path)

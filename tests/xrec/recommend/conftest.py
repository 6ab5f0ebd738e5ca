"""A dataset and a graph made without training, and the config of a recommend job over them."""

import importlib.util
from typing import Any

import pytest
import torch

from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import save_graph
from xrec.config.backfill import RecommendConfig
from xrec.config.base import parse_config

NUM_USERS, NUM_ITEMS, DIM = 23, 15, 4
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="the extra index is not installed"
)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Users u0 to u22, whose ids do not sort as their numbers; u7 has two unseen items, u8 none.

    No test writes to it.
    """
    root = tmp_path_factory.mktemp("recommend")
    seen = [
        (user, (3 * user + step) % NUM_ITEMS)
        for user in range(NUM_USERS)
        for step in range({7: 13, 8: 15}.get(user, 4))
    ]
    users = [{"user_id": f"u{user}", "profile": ""} for user in range(NUM_USERS)]
    items = [
        {"item_id": f"i{item}", "title": f"Place {item}", "profile": ""}
        for item in range(NUM_ITEMS)
    ]
    explained = pair_rows((0, 9), explanation="Quiet.", split="test")
    tables = {"users": users, "items": items, "interactions": pair_rows(*seen, split="train")}
    dataset = make_dataset(root, **tables, explanations=explained)
    draw = torch.Generator().manual_seed(0)
    vectors = [torch.randn(count, DIM, generator=draw) for count in (NUM_USERS, NUM_ITEMS)]
    save_graph(root / "graph", *vectors, dataset)
    return root


@pytest.fixture
def make_config(workspace, tmp_path):
    """A config by its keys."""

    def make(**values: Any) -> RecommendConfig:
        defaults = {
            "workspace": str(workspace),
            "recommendations": str(tmp_path / "recommendations"),
            "k": 3,
        }
        return parse_config(RecommendConfig, {**defaults, **values})

    return make

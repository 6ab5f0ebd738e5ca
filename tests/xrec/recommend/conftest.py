"""A dataset and a graph made without training, and the config of a recommend job over them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.prepare import run as prepare_dataset
from xrec.config.backfill import RecommendConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.storage import open_location

NUM_USERS, NUM_ITEMS, DIM = 23, 15, 4


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users u0 to u22, whose ids do not sort as their numbers; u7 has not seen two of the items.

    No test writes to it.
    """
    root = tmp_path_factory.mktemp("recommend")
    (root / "raw").mkdir()
    interactions = [
        (user, (3 * user + step) % NUM_ITEMS)
        for user in range(NUM_USERS)
        for step in range(13 if user == 7 else 4)
    ]
    tables = {
        "users": [{"user_id": f"u{user}", "profile": ""} for user in range(NUM_USERS)],
        "items": [
            {"item_id": f"i{item}", "title": f"Place {item}", "profile": ""}
            for item in range(NUM_ITEMS)
        ],
        "interactions": [
            {"user_id": f"u{user}", "item_id": f"i{item}", "split": "train"}
            for user, item in interactions
        ],
        "explanations": [
            {"user_id": "u0", "item_id": "i9", "explanation": "Quiet.", "split": "test"}
        ],
    }
    for name, rows in tables.items():
        (root / "raw" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    source = {"kind": "tables", "uri": str(root / "raw")}
    dataset = prepare_dataset(
        parse_config(PrepareConfig, {"workspace": str(root), "source": source})
    )
    generator = torch.Generator().manual_seed(0)
    embeddings = embeddings_bytes(
        torch.randn(NUM_USERS, DIM, generator=generator),
        torch.randn(NUM_ITEMS, DIM, generator=generator),
    )
    write_graph(
        open_location(str(root / "graph")),
        embeddings,
        [],
        config={},
        inputs={"dataset": dataset.fingerprint},
        metrics={},
    )
    return root


@pytest.fixture
def make_config(workspace: Path, tmp_path: Path) -> Callable[..., RecommendConfig]:
    """Makes a config over `workspace` with the given values and an output folder of this test."""

    def make(**values: Any) -> RecommendConfig:
        defaults = {
            "workspace": str(workspace),
            "recommendations": str(tmp_path / "recommendations"),
            "k": 3,
            "users_per_task": 5,
        }
        return parse_config(RecommendConfig, {**defaults, **values})

    return make

"""What a backfill reads, made in seconds.

This is a synthetic catalogue, a graph, an adapter, a toy language model, and pairs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xrec import schemas
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.data import SampleLLMConfig
from xrec.config.prompt import PromptConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import write_dataset
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.llm.source import model_fingerprint
from xrec.sample.language_model import build_model, save_sample_model, train_tokenizer
from xrec.storage import open_location, parquet_bytes

PAIRS_PER_USER = 10
_NUM_ITEMS, _DIM, _HIDDEN = 5_000, 16, 32
_WORDS = (
    "quiet",
    "garden",
    "late",
    "hours",
    "patio",
    "friendly",
    "coffee",
    "books",
    "music",
    "window",
    "corner",
    "tea",
    "bread",
    "light",
)
_NUM_FILES = 8


def make_catalogue(folder: Path, num_pairs: int, seed: int = 0) -> None:
    """Write dataset, graph, adapter, llm and pairs/ with `num_pairs` rows into `folder`.

    Each user has ten pairs. The rows are shuffled.
    """
    draw = np.random.default_rng(seed)
    num_users = num_pairs // PAIRS_PER_USER
    dataset = _write_dataset(folder, draw, num_users)
    torch.manual_seed(seed)
    graph = write_graph(
        open_location(str(folder / "graph")),
        embeddings_bytes(torch.randn(num_users, _DIM), torch.randn(_NUM_ITEMS, _DIM)),
        [],
        config={"model": {"embedding_dim": _DIM}},
        inputs={"dataset": dataset},
        metrics={},
    )
    _write_llm_and_adapter(folder, dataset, graph.fingerprint)
    _write_pairs(folder / "pairs", draw, num_users)


def backfill_config(
    folder: Path, output: str, storage: StorageConfig, **values: Any
) -> BackfillConfig:
    """Return the config of a backfill over what `make_catalogue(folder)` wrote."""
    defaults = {
        "workspace": str(folder),
        "explanations": output,
        "storage": storage.model_copy(),
        "pairs": {"kind": "table", "uri": str(folder / "pairs")},
        "llm": {"model": str(folder / "llm")},
        "actors": {"num_actors": 2, "device": "cpu"},
        "max_failed_share": 0.0,
    }
    return parse_config(BackfillConfig, {**defaults, **values})


def _write_dataset(folder: Path, draw: np.random.Generator, num_users: int) -> str:
    def texts(count: int, num_words: int) -> list[str]:
        return [
            " ".join(words) + "."
            for words in np.array(_WORDS)[draw.integers(len(_WORDS), size=(count, num_words))]
        ]

    users = {
        "user_id": [f"user-{index:07d}" for index in range(num_users)],
        "user_index": range(num_users),
        "profile": texts(num_users, 20),
    }
    items = {
        "item_id": [f"item-{index:05d}" for index in range(_NUM_ITEMS)],
        "item_index": range(_NUM_ITEMS),
        "title": texts(_NUM_ITEMS, 2),
        "profile": texts(_NUM_ITEMS, 20),
    }
    tables = {
        "users": pa.table({name: list(column) for name, column in users.items()}).cast(
            schemas.USERS
        ),
        "items": pa.table({name: list(column) for name, column in items.items()}).cast(
            schemas.ITEMS
        ),
        "interactions": schemas.INTERACTIONS.empty_table(),
        "explanations": schemas.EXPLANATIONS.empty_table(),
    }
    location = open_location(str(folder / "dataset"))
    return write_dataset(
        location, tables, schemas.REJECTED.empty_table(), config={}, inputs={}, metrics={}
    ).fingerprint


def _write_llm_and_adapter(folder: Path, dataset: str, graph: str) -> None:
    (folder / "llm").mkdir()
    tokenizer = train_tokenizer([" ".join(_WORDS)], 300)
    save_sample_model(
        build_model(
            SampleLLMConfig(hidden_size=_HIDDEN, num_layers=1, num_heads=2, num_key_value_heads=1),
            tokenizer,
        ),
        tokenizer,
        folder / "llm",
    )
    model = AdapterModelConfig(num_experts=2)
    base_model = model_fingerprint(folder / "llm")
    config = AdapterConfig(
        embedding_dim=_DIM,
        hidden_size=_HIDDEN,
        model=model,
        prompt=PromptConfig(use_chat_template=False),
        base_model="toy",
        base_model_fingerprint=base_model,
        graph_fingerprint=graph,
    )
    weights = build_adapters(model, embedding_dim=_DIM, hidden_size=_HIDDEN).state_dict()
    inputs = {"dataset": dataset, "graph": graph, "base_model": base_model}
    write_adapter(
        open_location(str(folder / "adapter")),
        weights,
        config,
        run_config={},
        inputs=inputs,
        metrics={},
        extra_files={},
    )


def _write_pairs(folder: Path, draw: np.random.Generator, num_users: int) -> None:
    """Write the pairs, shuffled, into several files.

    Ray Data's checkpoint needs one column that identifies a row, which is `pair_id`.
    """
    folder.mkdir()
    first = draw.integers(_NUM_ITEMS, size=num_users)
    users = np.repeat(np.arange(num_users), PAIRS_PER_USER)
    items = (
        np.repeat(first, PAIRS_PER_USER) + np.tile(np.arange(PAIRS_PER_USER), num_users)
    ) % _NUM_ITEMS
    order = draw.permutation(len(users))
    for number, part in enumerate(np.array_split(order, _NUM_FILES)):
        user_ids, item_ids = (
            [f"user-{user:07d}" for user in users[part]],
            [f"item-{item:05d}" for item in items[part]],
        )
        pair_ids = [f"{user} {item}" for user, item in zip(user_ids, item_ids, strict=True)]
        table = pa.table({"user_id": user_ids, "item_id": item_ids, "pair_id": pair_ids})
        (folder / f"{number}.parquet").write_bytes(parquet_bytes(table, table.schema))

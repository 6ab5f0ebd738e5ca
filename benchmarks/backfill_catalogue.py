"""What a backfill reads, made in seconds.

A synthetic catalogue, a graph, an adapter of fresh weights, a toy language model, and pairs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.bulk_work import PAIRS_PER_USER, make_pairs
from xrec import schemas
from xrec.adapter.artifact import write_adapter
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.prompt import PromptConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import write_dataset
from xrec.graph.artifact import GraphEmbeddings, embeddings_bytes, read_graph, write_graph
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.sample.language_model import build_model, train_tokenizer
from xrec.storage import Location, open_location

_NUM_ITEMS, _DIM = 5_000, 16
_WORDS = "quiet garden late hours patio friendly coffee books music window corner tea bread light"


def make_catalogue(folder: Path, num_pairs: int, llm: str | None = None, seed: int = 0) -> None:
    """Write dataset, graph, adapter, and pairs/ with `num_pairs` rows into `folder`.

    Each user has ten pairs. The rows are shuffled. llm: the adapter's language model; without one,
    a toy is written to llm/.
    """
    draw = np.random.default_rng(seed)
    num_users = num_pairs // PAIRS_PER_USER
    dataset = _write_dataset(folder, draw, num_users)
    torch.manual_seed(seed)
    write_graph(
        open_location(str(folder / "graph")),
        embeddings_bytes(torch.randn(num_users, _DIM), torch.randn(_NUM_ITEMS, _DIM)),
        [],
        config={"model": {"embedding_dim": _DIM}},
        inputs={"dataset": dataset},
        metrics={},
    )
    if llm is None:
        _write_toy_llm(folder / "llm")
    graph = read_graph(open_location(str(folder / "graph")))
    adapter = open_location(str(folder / "adapter"))
    write_untrained_adapter(adapter, llm or str(folder / "llm"), graph, PromptConfig())
    make_pairs(folder / "pairs", num_users * PAIRS_PER_USER)


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
    words = np.array(_WORDS.split())

    def texts(count: int, num_words: int) -> list[str]:
        drawn = words[draw.integers(len(words), size=(count, num_words))]
        return [" ".join(row) + "." for row in drawn]

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


def _write_toy_llm(folder: Path) -> None:
    folder.mkdir()
    tokenizer = train_tokenizer([_WORDS], 300)
    build_model(tokenizer, hidden_size=32, num_layers=1).save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


def write_untrained_adapter(
    location: Location, llm: str, graph: GraphEmbeddings, prompt: PromptConfig
) -> None:
    """Write an adapter of fresh weights for a language model, which costs as much as a trained."""
    folder = resolve_model(llm)
    hidden_size = json.loads((folder / "config.json").read_text())["hidden_size"]
    torch.manual_seed(0)
    model, dim = AdapterModelConfig(), graph.users.shape[1]
    inputs = {"graph": graph.manifest.fingerprint, "base_model": model_fingerprint(folder)}
    config = AdapterConfig(
        embedding_dim=dim,
        hidden_size=hidden_size,
        model=model,
        prompt=prompt,
        base_model=llm,
        base_model_fingerprint=inputs["base_model"],
        graph_fingerprint=inputs["graph"],
    )
    weights = build_adapters(model, embedding_dim=dim, hidden_size=hidden_size).state_dict()
    write_adapter(
        location, weights, config, run_config={}, inputs=inputs, metrics={}, extra_files={}
    )

"""A small town to serve from, made without training and without Ray.

It has a dataset, a graph, a toy language model, two adapters and the output of a backfill.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from jobs.prepare import run as prepare_dataset
from tests.toy import HIDDEN_SIZE, save_toy_model
from tests.xrec.backfill.runs import with_pairs
from tests.xrec.bulk.toy_run import PoolHere
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.backfill import finish, open_backfill
from xrec.backfill.task import explain_task
from xrec.bulk import drive
from xrec.config.adapter import AdapterModelConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.config.prompt import PromptConfig
from xrec.config.serve import ServeConfig
from xrec.data import read_dataset
from xrec.data.dataset import Dataset
from xrec.graph import embeddings_bytes, write_graph
from xrec.llm.source import model_fingerprint
from xrec.schemas import PAIRS
from xrec.storage import Manifest, open_location

NUM_USERS, NUM_ITEMS, DIM = 12, 10, 6
TOWN = {
    "kind": "sample",
    "num_users": NUM_USERS,
    "num_items": NUM_ITEMS,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}
DECODING = {
    "max_new_tokens": 24,
    "text": {"max_words": None, "max_phrase_repeats": None, "max_echo_tokens": None},
}
"""The limits on texts are off, because a toy model writes no sentences."""


def make_town(root: Path) -> Path:
    """Make everything but explanations in `root` and return `root`.

    `adapter` and `adapter-2` are for the same graph and model.
    """
    dataset = prepare_dataset(
        PrepareConfig.model_validate({"workspace": str(root), "source": TOWN})
    )
    torch.manual_seed(0)
    embeddings = embeddings_bytes(torch.randn(NUM_USERS, DIM), torch.randn(NUM_ITEMS, DIM))
    inputs = {"dataset": dataset.fingerprint}
    graph = write_graph(
        open_location(str(root / "graph")),
        embeddings,
        [],
        config={"model": {"embedding_dim": DIM}},
        inputs=inputs,
        metrics={},
    )
    base_model = model_fingerprint(save_toy_model(root / "llm"))
    for seed, name in enumerate(("adapter", "adapter-2")):
        make_adapter(root / name, graph.fingerprint, base_model, seed)
    return root


def make_adapter(folder: Path, graph: str, base_model: str, seed: int) -> None:
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
        prompt=PromptConfig(instruction="Why?", max_prompt_tokens=400),
        base_model="toy",
        base_model_fingerprint=base_model,
        graph_fingerprint=graph,
    )
    write_adapter(
        open_location(str(folder)),
        adapters.state_dict(),
        config,
        run_config={"seed": seed},
        inputs={},
        metrics={},
        extra_files={},
    )


def serve_config(town: Path, **values: Any) -> ServeConfig:
    """Return the config of the endpoint, with `values` in place of the defaults."""
    defaults = {
        "workspace": str(town),
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "engine": {"max_rows": 8, "kv_cache_gib": 0.05},
        "models": {"device": "cpu"},
    }
    return parse_config(ServeConfig, {**defaults, **values})


def backfill_config(town: Path, explanations: str, **values: Any) -> BackfillConfig:
    """Return the config of a backfill with the same model and decoding."""
    defaults = {
        "workspace": str(town),
        "explanations": explanations,
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "pairs": {"kind": "split", "split": "test"},
        "rows_per_chunk": 4,
        "max_failed_share": 1.0,
        "actors": {"device": "cpu"},
    }
    return parse_config(BackfillConfig, {**defaults, **values})


def make_backfill(config: BackfillConfig, pairs: list[tuple[str, str]]) -> Manifest:
    """Make what `xrec backfill` makes of `pairs`, by an actor in this process, without Ray."""
    rows = [dict(zip(PAIRS.names, pair, strict=True)) for pair in pairs]
    run = open_backfill(with_pairs(config, pa.Table.from_pylist(rows, PAIRS)))
    drive(run, PoolHere(), explain_task(config, run.record.identity))
    manifest = finish(config, run)
    assert manifest is not None
    return manifest


def ids_of(town: Path) -> tuple[list[str], list[str]]:
    """Return user ids and item ids."""
    dataset = dataset_of(town)
    return dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()


def dataset_of(town: Path) -> Dataset:
    """Return the town's dataset."""
    return read_dataset(open_location(str(town / "dataset")))

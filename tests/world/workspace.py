"""Workspaces with all artifacts except explanations, made in seconds without training."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from tests.world.models import EMBEDDING_DIM, save_toy_model, toy_adapter
from tests.world.town import prepare
from xrec.adapter.artifact import write_adapter
from xrec.config import PromptConfig
from xrec.graph.artifact import EMBEDDINGS, write_graph
from xrec.llm.source import model_fingerprint
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import (
    Manifest,
    fingerprint_of,
    open_location,
    read_manifest,
    write_manifest,
    write_table,
)

SOURCE: dict[str, Any] = {
    "kind": "sample",
    "num_users": 40,
    "num_items": 30,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}
NUM_USERS, NUM_ITEMS = 12, 10  # of make_town
PROMPT = {
    "user": "User: {user_profile}",
    "item": "Item: {item_title}. {item_profile}",
    "collaborative": "{user}{item}",
}


def build_workspace(folder: Path, **sizes: int) -> str:
    """Write `dataset`, a random `graph` and a language model, `llm`; returns the folder.

    `sizes` are keys of SOURCE, from which the dataset is generated.
    """
    source = {**SOURCE, **sizes}
    dataset = prepare(folder, source=source)
    save_random_graph(folder / "graph", source["num_users"], source["num_items"], dataset)
    save_toy_model(folder / "llm")
    return str(folder)


def make_town(root: Path, **sizes: int) -> Path:
    """Write the same for 12 users and 10 items, and the adapters `adapter` and `adapter-2`.

    Both are for the same graph and model. Returns `root`.
    """
    num = {"num_users": NUM_USERS, "num_items": NUM_ITEMS}
    build_workspace(
        root, **{**num, "interactions_per_user": 6, "explanations_per_user": 3, **sizes}
    )
    graph = read_manifest(open_location(str(root / "graph")), "graph").fingerprint
    for seed, name in enumerate(("adapter", "adapter-2")):
        make_adapter(root / name, graph, model_fingerprint(root / "llm"), seed)
    return root


def save_graph(
    folder: Path, users: Tensor, items: Tensor, dataset: str, **metrics: Any
) -> Manifest:
    """Write a graph of the dataset of this fingerprint with the vectors (U, D) and (I, D)."""
    return write_graph(
        open_location(str(folder)),
        {EMBEDDINGS: {"users": users, "items": items}},
        [],
        config={"model": {"embedding_dim": users.shape[1]}},
        inputs={"dataset": dataset},
        metrics=metrics,
    )


def save_random_graph(folder: Path, num_users: int, num_items: int, dataset: str) -> Manifest:
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, EMBEDDING_DIM, generator=generator) for n in (num_users, num_items))
    return save_graph(folder, *tables, dataset)


def make_adapter(folder: Path, graph: str, base_model: str, seed: int = 0, **prompt: Any) -> None:
    """Write a random adapter for the graph and the model of these fingerprints."""
    adapter = toy_adapter(
        "projected",
        seed=seed,
        num_experts=2,
        std=0.6,
        prompt=PromptConfig(instruction="Why?", max_prompt_tokens=400, **prompt),
        base_model_fingerprint=base_model,
        graph_fingerprint=graph,
    )
    about = {"run_config": {"seed": seed}, "inputs": {}, "metrics": {}, "extra_files": {}}
    state = adapter.adapters.state_dict()
    write_adapter(open_location(str(folder)), state, adapter.config, **about)


def save_recommendations(folder: Path, k: int, *rows: tuple[str, str, int, float]) -> Manifest:
    """Write recommendations of up to `k` items a user: user, item, rank and score of each."""
    location, fields = open_location(str(folder)), list(RECOMMENDATIONS)
    columns = [pa.array(values) for values in zip(*rows, strict=True)]
    columns += [pa.nulls(len(rows), field.type) for field in fields[len(columns) :]]
    table = pa.table(columns, RECOMMENDATIONS.names).cast(RECOMMENDATIONS)
    files = {
        "part-00000.parquet": write_table(location / "part-00000.parquet", table, table.schema)
    }
    return write_manifest(
        location,
        "recommendations",
        config={"k": k},
        inputs={},
        files=files,
        fingerprint=fingerprint_of(files),
        row_counts={"recommendations": len(rows)},
        metrics={},
    )

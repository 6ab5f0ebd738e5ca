"""Artifacts for submitted jobs: a town of 20 users, an untrained language model and adapter."""

from pathlib import Path
from typing import Any

import torch
import yaml

from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.data import SampleLLMConfig
from xrec.config.prompt import PromptConfig
from xrec.config.shared import StorageConfig
from xrec.llm.source import model_fingerprint
from xrec.sample.language_model import build_model, save_sample_model, train_tokenizer
from xrec.storage import Manifest, open_location

SAMPLE = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 12,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write a config file with `values`, and return its path."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_llm_and_adapter(
    workspace: str, storage: StorageConfig, graph: Manifest, folder: Path
) -> None:
    """Write a small random language model, and an untrained adapter for it and `graph`."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["A quiet place with a garden for a guest."], 300)
    model = build_model(SampleLLMConfig(hidden_size=32, num_layers=1), tokenizer)
    save_sample_model(model, tokenizer, folder)
    for path in folder.iterdir():
        (open_location(f"{workspace}/llm", storage) / path.name).write_bytes(path.read_bytes())
    base_model = model_fingerprint(folder)
    config = AdapterConfig(
        embedding_dim=graph.config["model"]["embedding_dim"],
        hidden_size=32,
        model=AdapterModelConfig(num_experts=2),
        # Without a chat template the prompt's last token, which an untrained model repeats, is a
        # colon and not a special token.
        prompt=PromptConfig(use_chat_template=False),
        base_model=f"{workspace}/llm",
        base_model_fingerprint=base_model,
        graph_fingerprint=graph.fingerprint,
    )
    state = build_adapters(
        config.model, embedding_dim=config.embedding_dim, hidden_size=config.hidden_size
    ).state_dict()
    inputs = {**graph.inputs, "graph": graph.fingerprint, "base_model": base_model}
    write_adapter(
        open_location(f"{workspace}/adapter", storage),
        state,
        config,
        run_config={},
        inputs=inputs,
        metrics={},
        extra_files={},
    )

"""A small town without training and without Ray: dataset, graph, a toy language model, adapters."""

from pathlib import Path
from typing import Any

from tests.toy import toy_adapter
from tests.xrec.train.adapter_town import build_workspace
from xrec.adapter.artifact import write_adapter
from xrec.config.prompt import PromptConfig
from xrec.llm.source import model_fingerprint
from xrec.storage import open_location, read_manifest

NUM_USERS, NUM_ITEMS = 12, 10


def make_town(root: Path, **town: int) -> Path:
    """Make everything but explanations in `root` and return `root`; `town` is of its source.

    `adapter` and `adapter-2` are for the same graph and model.
    """
    town = {"interactions_per_user": 6, "explanations_per_user": 3, **town}
    build_workspace(root, NUM_USERS, NUM_ITEMS, **town)
    graph = read_manifest(open_location(str(root / "graph")), "graph").fingerprint
    for seed, name in enumerate(("adapter", "adapter-2")):
        make_adapter(root / name, graph, model_fingerprint(root / "llm"), seed)
    return root


def make_adapter(folder: Path, graph: str, base_model: str, seed: int = 0, **prompt: Any) -> None:
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

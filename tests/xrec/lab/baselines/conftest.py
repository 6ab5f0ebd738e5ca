"""A small town with its texts, and small baselines over it."""

from dataclasses import replace
from typing import Any

import pytest

from tests.world.here import map_here
from tests.world.town import dataset_in
from tests.world.workspace import build_workspace
from xrec.config import CompareConfig, PromptConfig
from xrec.data import Dataset
from xrec.lab.baselines.artifact import build_model, write_baseline
from xrec.lab.baselines.baseline import RECIPES, Baseline
from xrec.lab.baselines.data import build_data
from xrec.lab.baselines.train import baseline_identity
from xrec.storage import Manifest

_VECTORS = {"embedding_dim": 8}
SMALL: dict[str, dict[str, Any]] = {
    "att2seq": {**_VECTORS, "hidden_size": 8, "dropout": 0.0},
    "nrt": {**_VECTORS, "hidden_size": 8, "num_rating_layers": 1},
    "peter": {**_VECTORS, "feedforward_size": 8, "num_layers": 1, "dropout": 0.0},
    "pepler": {},
    "lora": {"rank": 8},
}

PROMPT = PromptConfig(
    instruction="Why?", user="{user} {user_profile}", item="{item} {item_title}. {item_profile}"
)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A workspace with dataset and language model; no test writes to it."""
    sizes = {"num_users": 10, "num_items": 10, "interactions_per_user": 5}
    folder = tmp_path_factory.mktemp("baselines")
    return build_workspace(folder, **sizes, explanations_per_user=2)


@pytest.fixture(scope="session")
def dataset(workspace):
    return dataset_in(workspace)


@pytest.fixture
def make_baseline(workspace, tmp_path):
    """Make small baselines in the test's folder; `recipe` has fields that differ."""

    def make(
        kind: Any = "peter", *, seed: int = 0, max_pairs: int | None = None, **recipe: Any
    ) -> Baseline:
        settings = {
            "workspace": workspace,
            "entries": [kind],
            "llm": {"model": f"{workspace}/llm", "dtype": "float32"},
            "prompt": PROMPT,
            "training": {"max_pairs": max_pairs},
            "actors": {"device": "cpu", "num_processes": 1},
            "workers": {"device": "cpu"},
        }
        config, output = CompareConfig.model_validate(settings), str(tmp_path / "model")
        small = replace(RECIPES[kind], sizes=SMALL[kind], **recipe)
        return Baseline(kind, seed, small, config, output)

    return make


@pytest.fixture
def processes_here(monkeypatch):
    for module in ("texts", "train"):
        monkeypatch.setattr(f"xrec.lab.baselines.{module}.map_in_processes", map_here)
        monkeypatch.setattr(f"xrec.lab.baselines.{module}.gpus_each", lambda *arguments: 0)


def write_untrained(baseline: Baseline, dataset: Dataset) -> Manifest:
    """Write an untrained baseline with larger vectors."""
    data = build_data(baseline, dataset)
    model = build_model(baseline, data.sizes)
    settings, inputs = baseline_identity(baseline)
    tables = ("users.weight", "items.weight")
    parameters = {
        name: each.detach() * (20 if name in tables else 1)
        for name, each in model.named_parameters()
        if each.requires_grad
    }
    about: dict[str, Any] = {"settings": settings, "inputs": inputs, "metrics": {}}
    return write_baseline(baseline, data, parameters, [], **about)

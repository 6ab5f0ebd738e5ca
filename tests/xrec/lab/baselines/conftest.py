"""A small catalogue with twenty training explanations, and small baselines over it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.world.here import map_here
from tests.world.models import save_toy_model
from tests.world.town import make_dataset
from xrec.config import CompareConfig, LLMConfig, PromptConfig
from xrec.data import Dataset, read_dataset
from xrec.lab.baselines.artifact import build_model, write_baseline
from xrec.lab.baselines.baseline import RECIPES, Baseline
from xrec.lab.baselines.data import build_data
from xrec.lab.baselines.train import baseline_identity
from xrec.storage import Manifest, open_location

NUM_USERS, NUM_ITEMS = 10, 6
FOODS = ("Soup", "Noodles", "Waffles", "Dumplings", "Curry", "A well-known pie")
PLACES = ("garden", "view", "room", "terrace", "café", "bar", "roof", "pier", "hall", "yard")
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


def explanation(user: int, item: int) -> str:
    """What a user says of an item: what both bring, so that neither alone tells the text."""
    return f"{FOODS[item]}, {PLACES[user]}!"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A workspace with the dataset; no test writes to it."""
    folder = tmp_path_factory.mktemp("baselines")
    pairs = [
        {
            "user_id": f"u{user}",
            "item_id": f"i{(user + step) % NUM_ITEMS}",
            "explanation": explanation(user, (user + step) % NUM_ITEMS),
            "split": split,
        }
        for user in range(NUM_USERS)
        for step, split in enumerate(("train", "train", "validation", "test"))
    ]
    make_dataset(
        folder,
        users=[{"user_id": f"u{user}", "profile": f"Guest {user}."} for user in range(NUM_USERS)],
        items=[
            {"item_id": f"i{item}", "title": f"Place {item}", "profile": f"Known for {food}."}
            for item, food in enumerate(FOODS)
        ],
        interactions=[pair for pair in pairs if pair["split"] == "train"],
        explanations=pairs,
    )
    return str(folder)


@pytest.fixture(scope="session")
def dataset(workspace):
    return read_dataset(open_location(f"{workspace}/dataset"))


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    return LLMConfig(model=str(save_toy_model(tmp_path_factory.mktemp("llm"))), dtype="float32")


@pytest.fixture
def make_baseline(workspace, tmp_path, llm):
    """Makes small baselines in the test's folder; `sizes` and `recipe` change its recipe."""

    def make(kind: Any = "peter", **values: Any) -> Baseline:
        sizes = {**SMALL[kind], **values.pop("sizes", {})}
        recipe = replace(RECIPES[kind], sizes=sizes, **values.pop("recipe", {}))
        settings = {
            "workspace": workspace,
            "entries": [kind],
            "llm": llm,
            "prompt": PROMPT,
            "training": {"max_pairs": values.pop("max_pairs", None)},
            "actors": {"device": "cpu", "num_processes": 1},
            "workers": {"device": "cpu"},
        }
        config, output = CompareConfig.model_validate(settings), str(tmp_path / "model")
        return Baseline(kind, values.pop("seed", 0), recipe, config, output, **values)

    return make


@pytest.fixture
def processes_here(monkeypatch):
    for module in ("texts", "train"):
        monkeypatch.setattr(f"xrec.lab.baselines.{module}.map_in_processes", map_here)
        monkeypatch.setattr(f"xrec.lab.baselines.{module}.gpus_each", lambda *arguments: 0)


def write_untrained(baseline: Baseline, dataset: Dataset) -> Manifest:
    """Write an untrained baseline at its place, with 0.1 in place of a LoRA's zeros."""
    data = build_data(baseline, dataset)
    model = build_model(baseline, data.sizes)
    settings, inputs = baseline_identity(baseline)
    parameters = {
        name: torch.full_like(each, 0.1) if "lora_B" in name else each.detach()
        for name, each in model.named_parameters()
        if each.requires_grad
    }
    about: dict[str, Any] = {"settings": settings, "inputs": inputs, "metrics": {}}
    return write_baseline(baseline, data, parameters, [], **about)

"""A small catalogue with twenty training explanations, and configs of small peers over it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.prepare import run as prepare_dataset
from tests.xrec.bulk.toy_run import pool_here
from xrec.config.base import parse_config
from xrec.config.baselines import PeerConfig
from xrec.config.data import PrepareConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.storage import open_location

NUM_USERS, NUM_ITEMS = 10, 6
FOODS = ("Soup", "Noodles", "Waffles", "Dumplings", "Curry", "A well-known pie")
PLACES = ("garden", "view", "room", "terrace", "café", "bar", "roof", "pier", "hall", "yard")
SMALL = {"embedding_dim": 5, "hidden_size": 7, "num_layers": 2, "dropout": 0.0}

MakePeerConfig = Callable[..., PeerConfig]


def explanation(user: int, item: int) -> str:
    """What a user says of an item: what both bring, so that neither alone tells the text."""
    return f"{FOODS[item]}, {PLACES[user]}!"


def _rows() -> Mapping[str, list[dict[str, Any]]]:
    pairs = [(user, (user + step) % NUM_ITEMS) for user in range(NUM_USERS) for step in range(4)]
    splits = ["train", "train", "validation", "test"]
    return {
        "users": [
            {"user_id": f"u{user}", "profile": f"Guest {user}."} for user in range(NUM_USERS)
        ],
        "items": [
            {"item_id": f"i{item}", "title": f"Place {item}", "profile": f"Known for {food}."}
            for item, food in enumerate(FOODS)
        ],
        "interactions": [
            {"user_id": f"u{user}", "item_id": f"i{item}", "split": "train"}
            for place, (user, item) in enumerate(pairs)
            if splits[place % 4] == "train"
        ],
        "explanations": [
            {
                "user_id": f"u{user}",
                "item_id": f"i{item}",
                "explanation": explanation(user, item),
                "split": splits[place % 4],
            }
            for place, (user, item) in enumerate(pairs)
        ],
    }


def prepare(folder: Path, rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Prepare a dataset of these tables in `folder`; returns the workspace."""
    raw = folder / "raw"
    raw.mkdir()
    for name, table in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in table)
        (raw / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    source = {"kind": "tables", "uri": str(raw)}
    prepare_dataset(parse_config(PrepareConfig, {"workspace": str(folder), "source": source}))
    return str(folder)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A workspace with the dataset; no test writes to it."""
    return prepare(tmp_path_factory.mktemp("peers"), _rows())


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same workspace, where each explanation has a rating, 2 to 4.5, and one has none."""
    rows = _rows()
    for row in rows["explanations"]:
        user, item = int(row["user_id"][1:]), int(row["item_id"][1:])
        row["rating"] = None if (user, item) == (0, 0) else 2 + (user + item) % 6 / 2
    return prepare(tmp_path_factory.mktemp("rated"), rows)


@pytest.fixture(scope="session")
def dataset(workspace: str) -> Dataset:
    """The dataset."""
    return read_dataset(open_location(f"{workspace}/dataset"))


@pytest.fixture
def make_config(workspace: str, tmp_path: Path) -> MakePeerConfig:
    """Makes configs of small peers whose outputs lie in the test's folder."""

    def make(**values: Any) -> PeerConfig:
        return parse_config(
            PeerConfig,
            {
                "workspace": workspace,
                "peer_model": str(tmp_path / "model"),
                "peer_texts": str(tmp_path / "texts"),
                "att2seq": SMALL,
                "actors": {"device": "cpu", "num_actors": 1},
                "scaling": {"device": "cpu", "num_workers": 1},
                **values,
            },
        )

    return make


@pytest.fixture
def actors_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write texts in this process, without Ray."""
    monkeypatch.setattr("xrec.lab.baselines.texts.RayPool", pool_here)
    monkeypatch.setattr("xrec.lab.baselines.texts.gpus_each", lambda *arguments: 0)

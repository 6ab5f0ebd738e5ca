"""What a run is made from, and what is refused before Ray is asked for."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.toy import save_graph
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
    UnknownIdError,
)
from xrec.graph.artifact import read_graph
from xrec.recommend import RankingTask, identify_recommendations, read_tables
from xrec.storage import open_location


def _newcomer(folder: Path, *items: str) -> dict[str, str]:
    """A cold start of a new user with this history."""
    file = folder / "new.parquet"
    pq.write_table(pa.table({"user_id": ["newcomer"] * len(items), "item_id": items}), file)
    return {"interactions": str(file)}


def test_read_tables_ranks_a_cold_starts_new_user(make_config, tmp_path):
    history = ["i2", "i5", "i11", "i0"]
    config = make_config(cold_start=_newcomer(tmp_path, *history), k=15)
    dataset, graph = read_tables(config)
    assert set(dataset.users["user_id"].to_pylist()) == {
        *(f"u{user}" for user in range(23)),
        "newcomer",
    }
    outcome = RankingTask(dataset, graph, k=15).do(pa.table({"user_id": ["newcomer"]}))
    items = outcome.ok["item_id"].to_pylist()
    assert sorted(items + history) == sorted(f"i{item}" for item in range(15))
    read_tables(config.model_copy(update={"user_ids": ("newcomer",)}))  # it is known


def test_identity_is_of_inputs_k_and_set_of_users(make_config, tmp_path):
    identity = identify_recommendations(make_config(user_ids=["u3", "u1", "u3"]))
    assert set(identity.inputs) == {"dataset", "graph"}
    assert list(tmp_path.iterdir()) == []
    same = make_config(user_ids=["u1", "u3"], users_per_task=4)
    assert identify_recommendations(same).run == identity.run
    runs = {identity.run}
    for values in ({"user_ids": ["u1"]}, {}, {"user_ids": ["u1", "u3"], "k": 2}):
        runs.add(identify_recommendations(make_config(**values)).run)
    for item in ("i2", "i3"):
        config = make_config(cold_start=_newcomer(tmp_path, item))
        runs.add(identify_recommendations(config).run)
    assert len(runs) == 6


def _read(config: Any) -> None:
    identify_recommendations(config)
    read_tables(config)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"k": 16}, ConfigError, "k = 16, but the dataset has 15 items"),
        ({"user_ids": []}, ConfigError, "user_ids is an empty list"),
        ({"user_ids": ["u2", "u1x"]}, UnknownIdError, "user 'u1x' is not among the"),
        ({"dataset": "nowhere"}, ArtifactNotFoundError, "nowhere: no dataset artifact"),
        ({"graph": "nowhere"}, ArtifactNotFoundError, "nowhere: no graph artifact"),
        ({"graph": "broken"}, DataError, r"1 of 23 user vectors .* user_index 4"),
        ({"graph": "other"}, ArtifactMismatchError, "trained on dataset 0123, but .*dataset is"),
    ],
)
def test_what_cannot_be_recommended_is_refused(
    make_config, tmp_path, monkeypatch, values, error, message
):
    monkeypatch.chdir(tmp_path)
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    save_graph(tmp_path / "broken", users, graph.items, graph.manifest.inputs["dataset"])
    save_graph(tmp_path / "other", torch.eye(23), torch.eye(23), "0123")
    with pytest.raises(error, match=message):
        _read(make_config(**values))

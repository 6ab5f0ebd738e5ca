"""What is read before Ray is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from xrec.errors import DataError, UnknownIdError
from xrec.graph import read_graph
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.recommend import identify_recommendations, read_tables
from xrec.recommend.task import RankingTask
from xrec.storage import open_location

MakeConfig = Callable[..., Any]


def test_read_tables_ids_stand_in_the_order_of_their_vectors(make_config: MakeConfig) -> None:
    tables = read_tables(make_config(user_ids=["u2"]))
    graph = read_graph(open_location(make_config().artifact("graph")))
    assert tables.user_ids.to_pylist() == [f"u{user}" for user in range(23)]
    assert tables.item_ids.to_pylist() == [f"i{item}" for item in range(15)]
    assert torch.equal(torch.from_numpy(tables.user_vectors), graph.users)
    assert torch.equal(torch.from_numpy(tables.item_vectors), graph.items)


def test_read_tables_unknown_user_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UnknownIdError, match="user 'u1x' is not among the"):
        read_tables(make_config(user_ids=["u2", "u1x"]))


def test_read_tables_vector_that_is_not_finite_raises_data_error(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    broken = tmp_path / "graph"
    write_graph(
        open_location(str(broken)),
        embeddings_bytes(users, graph.items),
        [],
        config={},
        inputs=graph.manifest.inputs,
        metrics={},
    )
    with pytest.raises(DataError, match=r"1 of 23 user vectors .* user_index 4"):
        read_tables(make_config(graph=str(broken)))


def test_read_tables_new_user_of_a_cold_start_is_ranked_and_its_history_left_out(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    history = ["i2", "i5", "i11", "i0"]
    pq.write_table(
        pa.table({"user_id": ["newcomer"] * 4, "item_id": history}), tmp_path / "new.parquet"
    )
    config = make_config(cold_start={"interactions": str(tmp_path / "new.parquet")}, k=15)
    tables = read_tables(config)
    assert set(tables.user_ids.to_pylist()) == {*(f"u{user}" for user in range(23)), "newcomer"}
    outcome = RankingTask(tables, k=15).do(pa.table({"user_id": ["newcomer"]}))
    items = outcome.ok["item_id"].to_pylist()
    assert sorted(items + history) == sorted(f"i{item}" for item in range(15))
    read_tables(config.model_copy(update={"user_ids": ("newcomer",)}))  # it is known


def test_identity_depends_on_the_content_of_the_cold_start(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    runs = []
    for item in ("i2", "i3"):
        pq.write_table(
            pa.table({"user_id": ["newcomer"], "item_id": [item]}), tmp_path / "new.parquet"
        )
        runs.append(
            identify_recommendations(
                make_config(cold_start={"interactions": str(tmp_path / "new.parquet")})
            ).run
        )
    assert len({*runs, identify_recommendations(make_config()).run}) == 3

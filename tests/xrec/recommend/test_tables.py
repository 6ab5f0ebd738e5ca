"""What is read before Ray is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xrec.data import read_dataset
from xrec.errors import DataError, UnknownIdError
from xrec.graph import read_graph
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.recommend import read_tables
from xrec.storage import open_location

MakeConfig = Callable[..., Any]


def test_read_tables_all_users_are_in_the_order_of_their_ids(make_config: MakeConfig) -> None:
    tables = read_tables(make_config())
    dataset = read_dataset(open_location(make_config().artifact("dataset")))
    ids = tables.user_ids.to_pylist()
    assert ids == sorted(f"u{user}" for user in range(23))
    assert [dataset.users["user_id"][int(index)].as_py() for index in tables.order] == ids


def test_read_tables_named_users_are_there_once_in_the_order_of_their_ids(make_config: MakeConfig) -> None:
    assert read_tables(make_config(user_ids=["u2", "u11", "u2", "u0"])).user_ids.to_pylist() == ["u0", "u11", "u2"]


def test_read_tables_unknown_user_names_a_close_one(make_config: MakeConfig) -> None:
    with pytest.raises(UnknownIdError, match=r"user 'u1x' .* did you mean 'u1"):
        read_tables(make_config(user_ids=["u2", "u1x"]))


def test_read_tables_vector_that_is_not_finite_raises_data_error(make_config: MakeConfig, tmp_path: Path) -> None:
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    broken = tmp_path / "graph"
    write_graph(open_location(str(broken)), embeddings_bytes(users, graph.items), [], config={}, inputs=graph.manifest.inputs, metrics={})
    with pytest.raises(DataError, match=r"1 of 23 user vectors .* user_index 4"):
        read_tables(make_config(graph=str(broken)))

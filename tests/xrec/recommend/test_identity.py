"""What a run is made from, and what is refused before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.recommend import identify_recommendations
from xrec.storage import open_location

MakeConfig = Callable[..., Any]


def test_identity_names_dataset_and_graph_and_writes_nothing(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    identity = identify_recommendations(make_config())
    assert set(identity.inputs) == {"dataset", "graph"}
    assert list(tmp_path.iterdir()) == []


def test_identity_follows_from_the_set_of_users_not_their_order(make_config: MakeConfig) -> None:
    run = identify_recommendations(make_config(user_ids=["u3", "u1", "u3"])).run
    same = [{"user_ids": ["u1", "u3"]}, {"user_ids": ["u1", "u3"], "users_per_task": 4}]
    assert {identify_recommendations(make_config(**values)).run for values in same} == {run}
    others = [{"user_ids": ["u1"]}, {}, {"user_ids": ["u1", "u3"], "k": 2}]
    assert run not in {identify_recommendations(make_config(**values)).run for values in others}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 16}, "k = 16, but the dataset has 15 items"),
        ({"user_ids": []}, "user_ids is an empty list"),
    ],
)
def test_identity_of_what_cannot_be_recommended_is_a_config_error(
    make_config: MakeConfig, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        identify_recommendations(make_config(**values))


def test_identity_graph_of_another_dataset_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    graph = tmp_path / "graph"
    write_graph(
        open_location(str(graph)),
        embeddings_bytes(torch.eye(23), torch.eye(23)),
        [],
        config={},
        inputs={"dataset": "0123"},
        metrics={},
    )
    with pytest.raises(
        ArtifactMismatchError, match=r"graph: trained on dataset 0123, but .*dataset is"
    ):
        identify_recommendations(make_config(graph=str(graph)))


@pytest.mark.parametrize("name", ["dataset", "graph"])
def test_identity_without_an_input_names_it(
    make_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArtifactNotFoundError, match=f"nowhere: no {name} artifact"):
        identify_recommendations(make_config(**{name: str(tmp_path / "nowhere")}))

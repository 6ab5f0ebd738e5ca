"""What a run is made from, and what is refused before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.recommend.plan import RUN, begin, plan_recommendations
from xrec.storage import open_location

MakeConfig = Callable[..., Any]


def test_plan_names_dataset_and_graph_and_writes_nothing(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    plan = plan_recommendations(make_config())
    assert set(plan.inputs) == {"dataset", "graph"}
    assert plan.done is None
    assert list(tmp_path.iterdir()) == []


def test_plan_run_follows_from_the_set_of_users_not_their_order(make_config: MakeConfig) -> None:
    run = plan_recommendations(make_config(user_ids=["u3", "u1", "u3"])).run
    assert plan_recommendations(make_config(user_ids=["u1", "u3"])).run == run
    others = [
        {"user_ids": ["u1"]},
        {},
        {"user_ids": ["u1", "u3"], "k": 2},
        {"user_ids": ["u1", "u3"], "users_per_task": 4},
    ]
    assert run not in {plan_recommendations(make_config(**values)).run for values in others}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 16}, "k = 16, but the dataset has 15 items"),
        ({"user_ids": []}, "user_ids is an empty list"),
    ],
)
def test_plan_of_what_cannot_be_recommended_is_a_config_error(
    make_config: MakeConfig, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_recommendations(make_config(**values))


def test_plan_graph_of_another_dataset_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
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
        plan_recommendations(make_config(graph=str(graph)))


@pytest.mark.parametrize("name", ["dataset", "graph"])
def test_plan_without_an_input_names_it(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=f"nowhere: no {name} artifact"):
        plan_recommendations(make_config(**{name: str(tmp_path / "nowhere")}))


def test_begin_takes_up_its_own_run_and_refuses_another_naming_the_fields(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = open_location(str(tmp_path / "recommendations"))
    begin(output, plan_recommendations(make_config()))
    record = (output / RUN).read_bytes()
    begin(output, plan_recommendations(make_config()))
    with pytest.raises(
        ArtifactMismatchError,
        match=r"begun and not finished:\n  k: 3 there, 2 here\n"
        r"  user_ids: None there, \['u1'\] here",
    ):
        begin(output, plan_recommendations(make_config(k=2, user_ids=["u1"])))
    assert (output / RUN).read_bytes() == record


def test_begin_among_parts_of_no_known_run_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = open_location(str(tmp_path / "recommendations"))
    (output / "part-00002.parquet").write_bytes(b"")
    with pytest.raises(
        ArtifactMismatchError,
        match=r"holds 1 parts \(the first is part-00002\.parquet\) and no run\.json",
    ):
        begin(output, plan_recommendations(make_config()))
    assert output.files() == ["part-00002.parquet"]

"""The job `recommend` on s3://: its items, a backfill of them, and what is refused early."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

import jobs.recommend
from tests.command_line import xrec
from xrec.backfill.plan import open_backfill
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.base import parse_config
from xrec.data import read_dataset
from xrec.errors import StorageNotFoundError
from xrec.recommend import plan_recommendations, read_tables, recommendation_batches


def _config(pipeline: Any, **values: Any) -> RecommendConfig:
    own = {"workspace": pipeline.workspace, "storage": pipeline.storage}
    return parse_config(RecommendConfig, {**own, "k": 3, "users_per_task": 15, **values})


@pytest.mark.slow
@pytest.mark.usefixtures("actors_here")
def test_recommend_then_backfill_plans_exactly_those_pairs(pipeline, monkeypatch):
    manifest = jobs.recommend.run(_config(pipeline))
    dataset = read_dataset(pipeline.location("dataset"))
    uri, storage = f"{pipeline.workspace}/recommendations", _config(pipeline).storage
    table = pa.concat_tables(recommendation_batches(uri, storage=storage))
    assert Counter(table["user_id"].to_pylist()) == dict.fromkeys(
        dataset.users["user_id"].to_pylist(), 3
    )
    seen = set(zip(*dataset.interaction_edges("train").tolist(), strict=True))
    rows = [(row["user_id"], row["item_id"]) for row in table.to_pylist()]
    assert not {(dataset.user_index(user), dataset.item_index(item)) for user, item in rows} & seen

    config = pipeline.config(
        BackfillConfig,
        pairs={"kind": "recommendations", "k": 2},
        explanations=f"{pipeline.workspace}/of-top-2",
    )
    plan = open_backfill(config).passes()[0].plan
    planned = pa.concat_tables(plan.rows(chunk) for chunk in range(plan.size.num_chunks))
    assert sorted((row["user_id"], row["item_id"]) for row in planned.to_pylist()) == sorted(
        (row["user_id"], row["item_id"]) for row in table.to_pylist() if row["rank"] <= 2
    )

    monkeypatch.setattr(jobs.recommend, "ensure_ray", None)
    monkeypatch.setattr(jobs.recommend, "read_tables", None)
    assert jobs.recommend.run(_config(pipeline)) == manifest


@pytest.mark.usefixtures("without_work")
def test_recommend_output_is_begun_once_it_is_planned_and_another_run_is_missing(pipeline):
    config = _config(pipeline, recommendations=f"{pipeline.workspace}/begun")
    assert jobs.recommend.output(config).found().state == "missing"
    plan_recommendations(config, read_tables(config))
    assert jobs.recommend.output(config).found().state == "begun"
    other = jobs.recommend.output(config.model_copy(update={"k": 2}))
    assert other.found().state == "missing"


@pytest.mark.usefixtures("without_work")
def test_recommend_that_cannot_work_is_refused(pipeline, config_file):
    with pytest.raises(StorageNotFoundError, match="no-such-bucket"):
        jobs.recommend.run(_config(pipeline, recommendations="s3://no-such-bucket/recommendations"))
    code, _, err = xrec("recommend", config_file(_config(pipeline)), "k=21")
    assert (code, "k = 21, but the dataset has 20 items" in err) == (2, True)

"""A whole run through Ray Data's actors, compared with a sort of every user's scores.

Runs that are interrupted and continued, and runs on s3://, too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from xrec.data import read_dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError
from xrec.graph import read_graph
from xrec.recommend import plan_recommendations, read_recommendations, read_tables, run_recommend
from xrec.recommend import run as run_module
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import Location, Manifest, open_location, read_table

pytestmark = pytest.mark.usefixtures("ray_cluster")

MakeConfig = Callable[..., Any]


def _run(config: Any) -> Manifest:
    return run_recommend(config, plan_recommendations(config), read_tables(config))


def _output(config: Any) -> Location:
    return open_location(config.artifact("recommendations"), config.storage)


def _expected(config: Any) -> list[tuple[str, str, int, float]]:
    """user_id, item_id, rank, score of every user, by user_id and rank."""
    dataset, graph = (
        read_dataset(open_location(config.artifact("dataset"))),
        read_graph(open_location(config.artifact("graph"))),
    )
    seen = set(zip(*dataset.interaction_edges("train").tolist(), strict=True))
    rows = []
    for user, user_id in enumerate(dataset.users["user_id"].to_pylist()):
        scores = {
            item: float(graph.users[user] @ graph.items[item])
            for item in range(dataset.num_items)
            if (user, item) not in seen
        }
        best = sorted(scores, key=lambda item: -scores[item])[: config.k]
        rows += [
            (user_id, dataset.items["item_id"][item].as_py(), rank, scores[item])
            for rank, item in enumerate(best, start=1)
        ]
    return sorted(rows, key=lambda row: (row[0], row[2]))


def _assert_equal(table: pa.Table, expected: list[tuple[str, str, int, float]]) -> None:
    rows = table.to_pylist()
    assert [(row["user_id"], row["item_id"], row["rank"]) for row in rows] == [
        row[:3] for row in expected
    ]
    assert [row["score"] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)


def test_run_gives_each_users_best_unseen_items_by_brute_force(make_config: MakeConfig) -> None:
    config = make_config()
    manifest = _run(config)
    output, expected = _output(config), _expected(config)
    parts = [f"part-0000{part}.parquet" for part in range(5)]
    assert output.files() == ["manifest.json", *parts, "run.json"]
    assert list(manifest.files) == parts
    assert len(expected) == 22 * 3 + 2  # u7 has seen all but two
    assert manifest.row_counts == {"recommendations": len(expected), "users": 23}
    assert manifest.metrics == {"users_with_fewer_than_k": 1}
    _assert_equal(read_recommendations(output), expected)
    _assert_equal(
        read_table(output / parts[4], RECOMMENDATIONS),
        [row for row in expected if row[0] in ("u7", "u8", "u9")],
    )
    _assert_equal(read_recommendations(output, k=1), [row for row in expected if row[2] == 1])
    with pytest.raises(ConfigError, match=r"k = 4, but .*recommendations holds 3 items a user"):
        read_recommendations(output, k=4)


def test_run_interrupted_goes_on_with_the_parts_that_are_missing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    output = _output(config)
    whole = _run(config)
    table = read_recommendations(output)
    for name in ("manifest.json", "part-00001.parquet", "part-00003.parquet"):
        (output / name).delete()
    with pytest.raises(ArtifactNotFoundError, match="no recommendations artifact"):
        read_recommendations(output)
    kept = {name: output.fs.info((output / name).path)["mtime"] for name in output.files()}
    again = _run(config)
    assert {name: output.fs.info((output / name).path)["mtime"] for name in kept} == kept
    assert again.fingerprint == whole.fingerprint
    assert again.metrics == whole.metrics
    assert again.row_counts == whole.row_counts
    assert read_recommendations(output).equals(table)

    def work(*arguments: object, **settings: object) -> None:
        raise AssertionError("a finished run started to work")

    monkeypatch.setattr(run_module, "map_on_actors", work)
    assert _run(config) == again
    with pytest.raises(
        ArtifactMismatchError,
        match=r"holds the recommendations of another run:\n  k: 3 there, 2 here",
    ):
        _run(make_config(k=2))


def test_run_of_named_users_on_s3_by_the_configs_credentials_only(
    make_config: MakeConfig, workspace: Path, s3: Any
) -> None:
    bucket = s3.new_bucket()
    for name in ("dataset", "graph"):
        source, copy = (
            open_location(str(workspace / name)),
            open_location(f"{bucket}/town/{name}", s3.storage),
        )
        for file in source.files():
            (copy / file).write_bytes((source / file).read_bytes())
    on_s3 = {"workspace": f"{bucket}/town", "recommendations": None, "storage": s3.storage}
    config = make_config(**on_s3, user_ids=["u7", "u12", "u3"], users_per_task=2)
    manifest = _run(config)
    wanted = [row for row in _expected(make_config()) if row[0] in ("u12", "u3", "u7")]
    location = open_location(f"{bucket}/town/recommendations", s3.storage)
    assert list(manifest.files) == ["part-00000.parquet", "part-00001.parquet"]
    _assert_equal(read_recommendations(location), wanted)

"""The sources of pairs; tables that cannot be read are refused."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.xrec.backfill.runs import plan, run
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.bulk.toy_run import PoolHere
from xrec.backfill import pair_batches, pairs_listing
from xrec.bulk import Identity, Outcome, RunRequest, clean_keys, complete, open_run
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
    StorageError,
    UnknownIdError,
)
from xrec.graph import read_graph
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.recommend.task import ROWS
from xrec.storage import Location, open_location, parquet_bytes

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]


def read_pairs(config: Any) -> pa.Table:
    return pa.concat_tables(good for good, _ in pair_batches(config)).sort_by(
        [("user_id", "ascending"), ("item_id", "ascending")]
    )


def read_rejected(config: Any) -> list[tuple[str, int, str]]:
    """File, line and reason of each rejected row, in the order of the source."""
    rejected = pa.concat_tables(bad for _, bad in pair_batches(config)).to_pylist()
    return [(Path(row["file"]).name, row["line"], row["reason"]) for row in rejected]


def _rows(table: pa.Table) -> list[str]:
    return [f"{row['user_id']} {row['item_id']}" for row in table.to_pylist()]


def _table_config(make_config: MakeConfig, uri: object, **values: Any) -> Any:
    return make_config(pairs={"kind": "table", "uri": str(uri)}, **values)


def test_table_ids_are_strings_or_integers_and_further_columns_are_left(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "score": [0.5, 0.25, 0.1],
            "item_id": pa.array([7, 2**62 + 1, 9]),
            "user_id": pa.array(["1", "2", "3"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    read = read_pairs(_table_config(make_config, tmp_path / "pairs.parquet"))
    assert read.to_pylist() == [
        {"user_id": "1", "item_id": "7"},
        {"user_id": "2", "item_id": str(2**62 + 1)},
        {"user_id": "3", "item_id": "9"},
    ]


def test_table_ids_that_have_no_exact_text_are_rejected_with_file_line_and_reason(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each file is read with its own types: an id of one file may be a float in another."""
    monkeypatch.setattr("xrec.backfill.pairs._BATCH_ROWS", 2)  # lines count on over the batches
    files = {
        "a": {"user_id": ["u0", "u1", None, "u3"], "item_id": [1, 2, 3, 4]},
        "b": {"user_id": ["u0", "u1"], "item_id": [12345678901234567.0, float("nan")]},
    }
    for name, columns in files.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    text = pa.array([b"u0", b"\xff\xfe", b"u2"]).view(pa.binary()).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, text.buffers())
    items = pa.array(["i0", "i1", "i2"])
    pq.write_table(pa.table({"user_id": broken, "item_id": items}), tmp_path / "c.parquet")

    config = _table_config(make_config, tmp_path)
    assert read_rejected(config) == [
        ("a.parquet", 3, "null_id"),
        ("b.parquet", 1, "float_id"),
        ("b.parquet", 2, "nan_id"),
        ("c.parquet", 2, "invalid_utf8"),
    ]
    assert "4 of 9 rows of pairs have ids that are neither strings nor integers" in caplog.text
    assert _rows(read_pairs(config)) == ["u0 1", "u0 i0", "u1 2", "u2 i2", "u3 4"]
    with pytest.raises(DataError, match=r"line 3: null_id .* more than max_failed_share = 0\.4\."):
        read_pairs(_table_config(make_config, tmp_path, max_failed_share=0.4))


@pytest.mark.usefixtures("actors_here")
def test_rejected_rows_are_counted_in_the_manifest_and_kept_in_the_plan(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    table = pa.table({"user_id": ["u0", None, "u1"], "item_id": ["i0", "i0", "i1"]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    config = _table_config(make_config, tmp_path / "pairs.parquet")
    manifest = run(config, load=Toy())
    assert manifest.row_counts == {"explanations": 2, "failed": 0, "rejected": 1}
    (row,) = plan(config).rejected().to_pylist()
    assert (row["file"], row["line"]) == (str(tmp_path / "pairs.parquet"), 2)


def test_listing_changes_with_the_pairs_files_and_with_nothing_else(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    file = tmp_path / "in" / "pairs.parquet"
    file.parent.mkdir()
    pq.write_table(pairs("u0 i0"), file)
    config = _table_config(make_config, file.parent)
    before = pairs_listing(config)
    assert list(before) == [str(file)]
    assert pairs_listing(config) == before
    pq.write_table(pairs("u0 i1"), file)
    assert pairs_listing(config) != before
    assert pairs_listing(make_config()) == {}  # what a split depends on is in the run's identity


def test_table_on_s3_is_read(make_config: MakeConfig, pairs: MakePairs, s3: Any) -> None:
    bucket = s3.new_bucket()
    table = pairs("u1 i1", "u0 i0")
    (open_location(bucket, s3.storage) / "pairs.parquet").write_bytes(
        parquet_bytes(table, table.schema)
    )
    for uri in (f"{bucket}/pairs.parquet", bucket):
        assert _rows(read_pairs(_table_config(make_config, uri, storage=s3.storage))) == [
            "u0 i0",
            "u1 i1",
        ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["u0"], "item_id": ["i0"]}, "expected columns user_id and item_id, saw user, it"),
        (
            {"user_id": [["u0"]], "item_id": ["i0"]},
            "column user_id: expected ids that are strings or integers, saw",
        ),
        (None, "expected Parquet files with columns user_id and item_id"),
    ],
)
def test_table_that_is_no_table_of_pairs_says_what_was_seen(
    make_config: MakeConfig, tmp_path: Path, columns: dict[str, Any] | None, message: str
) -> None:
    file = tmp_path / "pairs.parquet"
    if columns is None:
        file.write_text("user_id,item_id\nu0,i0\n")
    else:
        pq.write_table(pa.table(columns), file)
    with pytest.raises(DataError, match=rf"pairs\.parquet: {message}"):
        read_pairs(_table_config(make_config, file))


def test_table_that_is_not_there_names_the_uri(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.parquet: not found"):
        read_pairs(_table_config(make_config, tmp_path / "nowhere.parquet"))


def test_split_pairs_are_the_explained_pairs_of_that_split(make_config: MakeConfig) -> None:
    assert _rows(read_pairs(make_config())) == ["u0 i4"]


def test_top_k_pairs_are_the_best_unseen_items_by_brute_force(make_config: MakeConfig) -> None:
    config = make_config(pairs={"kind": "top_k", "k": 2})
    graph = read_graph(open_location(config.artifact("graph")))
    dataset = read_dataset(open_location(config.artifact("dataset")))
    seen = set(zip(*dataset.interaction_edges("train").tolist(), strict=True))
    scores = (graph.users @ graph.items.T).tolist()
    expected = set()
    for user in range(dataset.num_users):
        unseen = [item for item in range(dataset.num_items) if (user, item) not in seen]
        best = sorted(unseen, key=lambda item: -scores[user][item])[:2]
        expected |= {
            (dataset.users["user_id"][user].as_py(), dataset.items["item_id"][item].as_py())
            for item in best
        }
    found = read_pairs(config)
    assert {(row["user_id"], row["item_id"]) for row in found.to_pylist()} == expected
    assert set(Counter(found["user_id"].to_pylist()).values()) == {2}


def test_top_k_of_named_users_and_fewer_unseen_items_than_k(make_config: MakeConfig) -> None:
    found = read_pairs(make_config(pairs={"kind": "top_k", "k": 6, "user_ids": ["u3", "u1"]}))
    # Each has seen 3 of the 6 items.
    assert Counter(found["user_id"].to_pylist()) == {"u1": 3, "u3": 3}


def test_top_k_of_an_unknown_user_or_of_too_many_items_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UnknownIdError, match="user 'u1x' is not among the"):
        read_pairs(make_config(pairs={"kind": "top_k", "k": 2, "user_ids": ["u1x"]}))
    with pytest.raises(ConfigError, match=r"pairs\.k = 7.*6 items"):
        read_pairs(make_config(pairs={"kind": "top_k", "k": 7}))


def test_top_k_of_another_datasets_graph_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    graph = tmp_path / "graph"
    write_graph(
        open_location(str(graph)),
        embeddings_bytes(torch.eye(3), torch.eye(3)),
        [],
        config={},
        inputs={"dataset": "0123"},
        metrics={},
    )
    with pytest.raises(ArtifactMismatchError, match="trained on dataset 0123"):
        read_pairs(make_config(pairs={"kind": "top_k", "k": 2}, graph=str(graph)))


def test_top_k_of_a_cold_starts_new_user_is_given(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    pq.write_table(pairs("newcomer i0", "newcomer i1"), tmp_path / "new.parquet")
    cold_start = {"interactions": str(tmp_path / "new.parquet")}
    found = read_pairs(
        make_config(
            pairs={"kind": "top_k", "k": 6, "user_ids": ["newcomer"]}, cold_start=cold_start
        )
    )
    assert _rows(found) == ["newcomer i2", "newcomer i3", "newcomer i4", "newcomer wordy"]


@dataclass(frozen=True)
class _Ranked:
    """Gives user uN the items of rank 1 and 2, iN+1 and iN+2 (a ChunkTask of xrec.bulk)."""

    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> Outcome:
        ranked = [
            {"user_id": user, "item_id": f"i{int(user[1:]) + rank}", "rank": rank, "score": 0.5}
            for user in rows["user_id"].to_pylist()
            for rank in (2, 1)
        ]
        return Outcome(
            pa.Table.from_pylist(ranked, ROWS.ok_schema), ROWS.failed_schema.empty_table()
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        raise NotImplementedError


def _recommend(location: Location, *users: str) -> None:
    """Publish two items of each user."""
    table = pa.table({"user_id": users})
    run = open_run(
        RunRequest(
            location.uri,
            Identity(kind="recommendations", config={"k": 2}, inputs={}),
            ROWS,
            lambda: [clean_keys(table, ROWS.keys, file="users", first_line=1)],
        )
    )
    complete(run, PoolHere(), _Ranked, "recommendations", lambda summary: ({}, {}))


def test_recommended_pairs_are_the_first_k_of_each_user(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    location = open_location(str(tmp_path / "top"))
    source = {"kind": "recommendations", "uri": location.uri}
    with pytest.raises(ArtifactNotFoundError, match="top: nothing was published there"):
        read_pairs(make_config(pairs=source))
    _recommend(location, "u0", "u1", "u2")
    both = ["u0 i1", "u0 i2", "u1 i2", "u1 i3", "u2 i3", "u2 i4"]
    assert _rows(read_pairs(make_config(pairs=source))) == both
    assert _rows(read_pairs(make_config(pairs={**source, "k": 1}))) == both[::2]
    with pytest.raises(ConfigError, match=r"k = 3, but .*top holds 2 items a user"):
        read_pairs(make_config(pairs={**source, "k": 3}))

"""A worker writes a chunk's files and its commit record once, also beside other attempts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xrec.backfill.commit import Commit, committed_chunks
from xrec.backfill.worker import ChunkWorker, WorkerSettings

from tests.xrec.backfill.runs import plan
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import BackfillPlan
from xrec.backfill.content_key import shared_key
from xrec.backfill.identity import sources_of
from xrec.config.backfill import BackfillConfig
from xrec.config.llm import EngineConfig
from xrec.generate.explainer import check_sources
from xrec.schemas import FAILED, GENERATED
from xrec.storage import open_location, read_table

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
ONE_CHUNK = 100


def _settings(config: BackfillConfig, made: BackfillPlan, **values: Any) -> WorkerSettings:
    return WorkerSettings(
        sources_of(config),
        made.output.shared_uri,
        made.identity.run,
        config.decoding,
        device="cpu",
        engine=EngineConfig(),
        num_threads=1,
        shared_key=shared_key(made.identity),
        **values,
    )


def _chunk(made: BackfillPlan, chunk: int = 0) -> dict[str, Any]:
    return {"chunk": np.array([chunk]), "input": np.array([made.chunks[chunk].pairs])}


@pytest.fixture
def made(make_config: MakeConfig, pairs: MakePairs) -> BackfillPlan:
    """A run of one chunk with three rows, one of them of an unknown user."""
    return plan(make_config(rows_per_chunk=ONE_CHUNK), pairs("nobody i0", "u0 i0", "u1 i1"))


@pytest.fixture
def worker(make_config: MakeConfig, made: BackfillPlan) -> ChunkWorker:
    """The worker of that run, in this process."""
    return ChunkWorker(_settings(make_config(rows_per_chunk=ONE_CHUNK), made, load=Toy()))


def test_worker_writes_both_tables_and_then_the_record(
    worker: ChunkWorker, made: BackfillPlan, make_config: MakeConfig
) -> None:
    row = worker(_chunk(made))
    commit = Commit.read(made.output, 0)
    assert Commit.model_validate_json(row["commit"][0]) == commit
    assert row["is_first"].tolist() == [True]
    assert (commit.num_rows, commit.num_failed, commit.failed_by_reason) == (
        2,
        1,
        {"unknown_user": 1},
    )
    (generated,) = (read_table(made.output / name, GENERATED) for name in commit.explained_files)
    (failed,) = (read_table(made.output / name, FAILED) for name in commit.failed_files)
    assert [(row["user_id"], row["explanation"]) for row in generated.to_pylist()] == [
        ("u0", "explained u0 i0"),
        ("u1", "explained u1 i1"),
    ]
    assert failed["user_id"].to_pylist() == ["nobody"]
    assert set(generated["model_fingerprint"].to_pylist()) == {
        check_sources(sources_of(make_config())).model_fingerprint
    }
    assert commit.work.num_prompt_tokens == sum(generated["num_prompt_tokens"].to_pylist())
    assert commit.work.num_generated_tokens == sum(generated["num_generated_tokens"].to_pylist())


def test_worker_does_not_repeat_a_committed_chunk(
    worker: ChunkWorker, made: BackfillPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = worker(_chunk(made))
    before = made.output.files()
    monkeypatch.setattr(worker, "_explain", None)
    second = worker(_chunk(made))
    assert second["commit"] == first["commit"]
    assert second["is_first"].tolist() == [False]
    assert made.output.files() == before


def test_worker_two_attempts_at_a_chunk_commit_once(
    worker: ChunkWorker, made: BackfillPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both began before either committed; the file of the second is there, and does not count."""
    from xrec.backfill import worker as module

    explain = worker._explain
    first: list[Commit] = []

    def another_attempt_first(chunk: int, source: str) -> Commit:
        other = explain(chunk, source)
        assert module.try_commit(made.output, other)
        first.append(other)
        worker._explainer.model_fingerprint = "another attempt"
        return explain(chunk, source)

    monkeypatch.setattr(worker, "_explain", another_attempt_first)
    row = worker(_chunk(made))
    assert row["is_first"].tolist() == [False]
    assert Commit.model_validate_json(row["commit"][0]) == first[0] == Commit.read(made.output, 0)
    assert committed_chunks(made.output) == {0}
    assert len([name for name in made.output.files() if name.startswith("part-")]) == 2


def test_worker_explains_newcomers_and_fails_those_without_a_known_neighbour(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    interactions = pa.table(
        {"user_id": ["newcomer", "u0", "lone"], "item_id": ["i1", "new-item", "lone-item"]}
    )
    pq.write_table(interactions, tmp_path / "interactions.parquet")
    pq.write_table(
        pa.table({"item_id": ["new-item"], "title": ["New Place"], "profile": ["Loud."]}),
        tmp_path / "items.parquet",
    )
    cold_start = {name: str(tmp_path / f"{name}.parquet") for name in ("interactions", "items")}
    config = make_config(rows_per_chunk=ONE_CHUNK, cold_start=cold_start)
    made = plan(
        config, pairs("newcomer i0", "newcomer new-item", "u1 new-item", "lone i0", "u0 lone-item")
    )
    worker = ChunkWorker(_settings(config, made))
    worker(_chunk(made))
    output = open_location(str(tmp_path / "explanations"))
    commit = Commit.read(output, 0)
    assert commit.failed_by_reason == {"unknown_user": 1, "unknown_item": 1}
    (generated,) = (
        read_table(output / name, GENERATED)
        for name in commit.files
        if not name.startswith("failed/")
    )
    assert [(row["user_id"], row["item_id"]) for row in generated.to_pylist()] == [
        ("newcomer", "i0"),
        ("newcomer", "new-item"),
        ("u1", "new-item"),
    ]
    assert worker._explainer.dataset.items["title"][-1].as_py() == "New Place"

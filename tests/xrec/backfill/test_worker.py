"""A chunk in, its rows out: what cannot be explained is a failed row with a typed reason, and stops nothing."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.adapter.pairs import PairPrompts
from xrec.backfill import plan_backfill
from xrec.backfill.commit import Commit, committed_chunks
from xrec.backfill.plan import sources_of
from xrec.backfill.worker import ChunkWorker, WorkerSettings, explain_pairs
from xrec.config import DecodingConfig, EngineConfig
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer, check_sources, load_explainer
from xrec.schemas import FAILED, GENERATED
from xrec.storage import open_location, read_table

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]


class ScriptedEngine:
    """Writes the given texts, last prompt first."""

    def __init__(self, pairs: PairPrompts, texts: Sequence[str]):
        self._ids = [pairs.builder.encode_explanation(text)[:-1] for text in texts]
        self.prompts: list[list[int]] = []

    def generate(self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig) -> Iterator[Completion]:
        self.prompts = [list(prompt) for prompt in prompts]
        for index in reversed(range(len(prompts))):
            yield Completion(index, self._ids[index], "length" if index == 0 else "stop")


@pytest.fixture
def scripted(make_config: MakeConfig) -> Callable[..., Explainer]:
    loaded = load_explainer(sources_of(make_config()), device="cpu", engine=EngineConfig())

    def make(*texts: str) -> Explainer:
        engine = ScriptedEngine(loaded.pairs, texts)
        return Explainer(loaded.model, engine, loaded.pairs, loaded.dataset, loaded.graph, "f" * 16)

    return make


def test_explain_pairs_each_text_stands_beside_its_own_pair(scripted: Callable[..., Explainer], pairs: MakePairs) -> None:
    explainer = scripted("First.", "second one", "third")
    generated, failed = explain_pairs(explainer, pairs("u0 i0", "u0 i1", "u10 i2"), DecodingConfig())
    assert generated.schema.equals(GENERATED)
    assert failed.schema.equals(FAILED)
    assert failed.num_rows == 0
    rows = generated.to_pylist()
    assert [(row["user_id"], row["item_id"], row["explanation"]) for row in rows] == [
        ("u0", "i0", "First."),
        ("u0", "i1", "second one"),
        ("u10", "i2", "third"),
    ]
    assert [row["finish_reason"] for row in rows] == ["length", "stop", "stop"]
    assert [row["num_prompt_tokens"] for row in rows] == [len(prompt) for prompt in explainer.engine.prompts]  # type: ignore[attr-defined]
    assert [row["num_generated_tokens"] for row in rows] == [
        len(explainer.pairs.builder.encode_explanation(text)) - 1 for text in ("First.", "second one", "third")
    ]
    assert {row["model_fingerprint"] for row in rows} == {"f" * 16}


def test_explain_pairs_failed_rows_are_typed_and_the_rest_is_explained(scripted: Callable[..., Explainer], pairs: MakePairs) -> None:
    explainer = scripted("A garden.", " \n ")
    generated, failed = explain_pairs(explainer, pairs("nobody i0", "u0 i0", "u0 nothing", "u1 i0", "u1 wordy"), DecodingConfig())
    assert [(row["user_id"], row["item_id"], row["explanation"]) for row in generated.to_pylist()] == [("u0", "i0", "A garden.")]
    assert [(row["user_id"], row["item_id"], row["reason"]) for row in failed.to_pylist()] == [
        ("nobody", "i0", "unknown_user"),
        ("u0", "nothing", "unknown_item"),
        ("u1", "i0", "empty_text"),
        ("u1", "wordy", "prompt_too_long"),
    ]
    messages = dict(zip(failed["reason"].to_pylist(), failed["message"].to_pylist(), strict=True))
    assert "user 'nobody' is not among the 12 users" in messages["unknown_user"]
    assert "item 'nothing' is not among the 6 items" in messages["unknown_item"]
    assert "at most 150 allowed (prompt.max_prompt_tokens)" in messages["prompt_too_long"]


def test_explain_pairs_nothing_to_explain_gives_empty_tables(scripted: Callable[..., Explainer], pairs: MakePairs) -> None:
    generated, failed = explain_pairs(scripted(), pairs("nobody i0"), DecodingConfig())
    assert generated.equals(GENERATED.empty_table())
    assert failed["reason"].to_pylist() == ["unknown_user"]


@pytest.fixture
def worker(make_config: MakeConfig, pairs: MakePairs, tmp_path: Path) -> ChunkWorker:
    """A worker of a run of one chunk, in this process."""
    config = make_config(num_chunks=1)
    plan_backfill(config, pairs("nobody i0", "u0 i0", "u1 i1"))
    return ChunkWorker(
        WorkerSettings(sources_of(config), str(tmp_path / "explanations"), config.decoding, device="cpu", engine=EngineConfig(), num_threads=1)
    )


def _chunk(number: int) -> dict[str, Any]:
    return {"chunk": np.array([number])}


def test_worker_writes_both_tables_and_then_the_record(worker: ChunkWorker, make_config: MakeConfig, tmp_path: Path) -> None:
    counts = worker(_chunk(0))
    output = open_location(str(tmp_path / "explanations"))
    commit = Commit.read(output, 0)
    assert commit.num_rows + commit.num_failed == 3
    assert counts == {"chunk": [0], "num_rows": [commit.num_rows], "num_failed": [commit.num_failed], "committed": [True]}
    tables = {name: read_table(output / name, FAILED if name.startswith("failed/") else GENERATED) for name in commit.files}
    assert sum(table.num_rows for table in tables.values()) == 3
    fingerprints = {
        value for table in tables.values() if "model_fingerprint" in table.schema.names for value in table["model_fingerprint"].to_pylist()
    }
    assert fingerprints == {check_sources(sources_of(make_config())).model_fingerprint}


def test_worker_two_attempts_at_a_chunk_commit_once(worker: ChunkWorker, tmp_path: Path) -> None:
    """The second attempt wrote another content (sampling on other hardware, say): its file is there, and counts for nothing."""
    first = worker(_chunk(0))
    output = open_location(str(tmp_path / "explanations"))
    before = Commit.read(output, 0)
    contents = {name: (output / name).read_bytes() for name in before.files}
    worker._explainer.model_fingerprint = "another attempt"
    second = worker(_chunk(0))
    assert first["committed"] == [True]
    assert second["committed"] == [False]
    assert committed_chunks(output) == {0}
    assert Commit.read(output, 0) == before
    assert {name: (output / name).read_bytes() for name in before.files} == contents


def test_worker_explains_newcomers_and_fails_those_without_a_known_neighbour(make_config: MakeConfig, pairs: MakePairs, tmp_path: Path) -> None:
    interactions = pa.table({"user_id": ["newcomer", "u0", "lone"], "item_id": ["i1", "new-item", "lone-item"]})
    pq.write_table(interactions, tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ["new-item"], "title": ["New Place"], "profile": ["Loud."]}), tmp_path / "items.parquet")
    cold_start = {name: str(tmp_path / f"{name}.parquet") for name in ("interactions", "items")}
    config = make_config(num_chunks=1, cold_start=cold_start)
    plan_backfill(config, pairs("newcomer i0", "newcomer new-item", "u1 new-item", "lone i0", "u0 lone-item"))
    settings = WorkerSettings(sources_of(config), str(tmp_path / "explanations"), config.decoding, device="cpu", engine=EngineConfig(), num_threads=1)
    worker = ChunkWorker(settings)
    worker(_chunk(0))
    output = open_location(str(tmp_path / "explanations"))
    commit = Commit.read(output, 0)
    assert commit.failed_by_reason == {"unknown_user": 1, "unknown_item": 1}
    (generated,) = (read_table(output / name, GENERATED) for name in commit.files if not name.startswith("failed/"))
    assert [(row["user_id"], row["item_id"]) for row in generated.to_pylist()] == [("newcomer", "i0"), ("newcomer", "new-item"), ("u1", "new-item")]
    assert worker._explainer.dataset.items["title"][-1].as_py() == "New Place"

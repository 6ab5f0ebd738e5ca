"""Explaining pairs as a task of xrec.bulk."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.backfill.runs import pairs_of, published_rows
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.bulk.toy_run import PoolHere
from xrec.backfill.explain import explain_pairs
from xrec.backfill.finish import describe
from xrec.backfill.identity import identify
from xrec.backfill.run import chunks_at_once
from xrec.backfill.task import EXPLANATIONS, ExplainTask, explain_task
from xrec.bulk import Identity, Outcome, clean_keys, complete, open_run
from xrec.config.backfill import FailureReason
from xrec.storage import open_location

MakeConfig = Callable[..., Any]
PAIRS_GIVEN = ("u0 i0", "u0 i1", "u1 i2", "u2 wordy", "nobody i0", "u3 nothing", "u4 i4")


@pytest.fixture
def task(make_config: MakeConfig) -> ExplainTask:
    config = make_config()
    return explain_task(config, identify(config))()


def complete_run(uri: str, pairs: pa.Table, task: ExplainTask, **settings: Any) -> Any:
    run = open_run(
        uri,
        Identity(kind="explanations", config={}, inputs={}),
        EXPLANATIONS,
        lambda: [clean_keys(pairs, EXPLANATIONS.keys, file="pairs", first_line=1)],
        listing={},
        rows_per_chunk=3,
        **settings,
    )
    return complete(run, PoolHere(), lambda: task, "explanations", describe(run))


def test_explain_task_gives_the_rows_of_a_backfill_and_carries_them(
    task: ExplainTask, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    given = pairs(*PAIRS_GIVEN)
    generated, not_explained = explain_pairs(task.explainer, given, task.decoding, task.shared_key)
    one, two = (open_location(str(tmp_path / name)) for name in ("one", "two"))
    manifest = complete_run(one.uri, given, task)
    explained, failed = published_rows(one), published_rows(one, failed=True)
    assert [row["explanation"] for row in explained] == generated["explanation"].to_pylist()
    assert pairs_of(explained) == pairs_of(generated.to_pylist())
    assert [row["reason"] for row in failed] == not_explained["reason"].to_pylist()
    assert manifest.metrics["costs"]["num_generated_tokens"] > 0
    manifest = complete_run(two.uri, given, task, carry_from=one.uri)
    assert manifest.metrics["num_carried"] == len(explained)
    assert published_rows(two) == explained


def test_explain_task_in_an_actor_explains_newcomers_by_the_items_they_came_with(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    pq.write_table(pairs("newcomer i0", "newcomer i1"), tmp_path / "new.parquet")
    config = make_config(cold_start={"interactions": str(tmp_path / "new.parquet")})
    sent = pickle.dumps(explain_task(config, identify(config), Toy()))
    actor = pickle.loads(sent)()
    outcome = actor.do(pairs("newcomer i2", "u0 i2"))
    assert pairs_of(outcome.ok.to_pylist()) == ["newcomer i2", "u0 i2"]
    assert outcome.failed.num_rows == 0
    vector = actor.explainer.graph.users[actor.explainer.dataset.user_index("newcomer")]
    assert vector.norm() > 0
    without = explain_task(make_config(), identify(make_config()), Toy())()
    (failed,) = without.do(pairs("newcomer i2")).failed.to_pylist()
    assert failed["reason"] == "unknown_user"


def test_chunks_at_the_same_time_share_the_engines_steps_and_have_their_own_rows(
    task: ExplainTask, pairs: Callable[..., pa.Table]
) -> None:
    chunks = [pairs(*PAIRS_GIVEN[:3]), pairs(*PAIRS_GIVEN[3:]), pairs("u4 i0", "u2 i1")]
    alone = [task.do(chunk) for chunk in chunks]
    num_rows: list[int] = []
    step = task.explainer.engine.core.step

    def observed() -> list[Any]:
        advances = step()
        num_rows.append(len({one.request_id for one in advances}))
        return advances

    task.explainer.engine.core.step = observed  # type: ignore[method-assign]
    begun = threading.Barrier(len(chunks))

    def do(chunk: pa.Table) -> Outcome:
        begun.wait()
        return task.do(chunk)

    with ThreadPoolExecutor(len(chunks)) as pool:
        together = list(pool.map(do, chunks))
    for one, other in zip(alone, together, strict=True):
        assert one.ok.equals(other.ok)
        assert one.failed.equals(other.failed)
    assert max(num_rows) > max(chunk.num_rows for chunk in chunks)
    costs = [
        sum(outcome.costs["engine_prompt_tokens"] for outcome in outcomes)
        for outcomes in (alone, together)
    ]
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("rows_per_chunk", "max_rows", "expected"),
    [(1024, 128, 2), (128, 128, 3), (16, 32, 5), (1, 128, 16)],
)
def test_an_actor_does_as_many_chunks_as_keep_the_engine_full(
    make_config: MakeConfig, rows_per_chunk: int, max_rows: int, expected: int
) -> None:
    config = make_config(engine={"max_rows": max_rows})
    assert chunks_at_once(config, rows_per_chunk) == expected


def test_reasons_of_the_config_are_those_for_which_a_row_can_fail() -> None:
    assert get_args(FailureReason) == EXPLANATIONS.all_reasons

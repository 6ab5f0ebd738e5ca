"""Explaining pairs as a task of xrec.bulk."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import pairs_table
from xrec.backfill.driver import chunks_at_once
from xrec.backfill.identity import identify
from xrec.backfill.plan import EXPLANATIONS
from xrec.backfill.task import explain_task
from xrec.bulk import Outcome
from xrec.config.backfill import FailureReason

PAIRS_GIVEN = ("u0 i0", "u0 i1", "u1 i2", "u2 wordy", "nobody i0", "u3 nothing", "u4 i4")


def test_chunks_at_the_same_time_share_steps_and_have_their_own_rows(runs):
    task = explain_task(runs.config(), identify(runs.config()))()
    given = (PAIRS_GIVEN[:3], PAIRS_GIVEN[3:], ("u4 i0", "u2 i1"))
    chunks = [pairs_table(*pairs) for pairs in given]
    alone = [task.do(chunk) for chunk in chunks]
    num_rows: list[int] = []
    step = task.explainer.engine.core.step

    def observed() -> list[Any]:
        advances = step()
        num_rows.append(len({one.request_id for one in advances}))
        return advances

    task.explainer.engine.core.step = observed
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
def test_chunks_at_once_keep_the_engine_full(runs, rows_per_chunk, max_rows, expected):
    config = runs.config(engine={"max_rows": max_rows})
    assert chunks_at_once(config, rows_per_chunk) == expected


def test_reasons_of_the_config_are_those_for_which_a_row_can_fail():
    assert get_args(FailureReason) == EXPLANATIONS.all_reasons

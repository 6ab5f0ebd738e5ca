"""A pair becomes an explanation or a failed row; chunks as a task of xrec.bulk; their progress."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_args

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import changed, pairs_of, pairs_table
from xrec.adapter.pairs import PairPrompts
from xrec.backfill import driver
from xrec.backfill.driver import BackfillMetrics, chunks_at_once, progress_line
from xrec.backfill.explain import explain_pairs
from xrec.backfill.identity import identify
from xrec.backfill.plan import EXPLANATIONS
from xrec.backfill.task import explain_task
from xrec.bulk import Outcome, Progress
from xrec.checks import Checker
from xrec.config.backfill import FailureReason
from xrec.config.decoding import DecodingConfig
from xrec.data.evidence import AspectEvidence
from xrec.generate.engine import Completion, Failure
from xrec.generate.explainer import Explainer
from xrec.generate.shared_engine import Again, Requests
from xrec.schemas import FAILED, GENERATED

Scripted = Callable[..., Explainer]
GARDEN = "Quiet, with a garden."


class ScriptedEngine:
    """Writes the given texts, beginning with the last prompt; it refuses the prompts of None."""

    def __init__(self, pairs: PairPrompts, texts: Sequence[str | None]):
        encode = pairs.builder.encode_explanation
        self._ids = [None if text is None else encode(text)[:-1] for text in texts]
        self.prompts: list[list[int]] = []

    def complete(self, requests: Requests, again: Again) -> Iterator[Completion]:
        self.prompts = [list(prompt) for prompt, _ in requests]
        for index in reversed(range(len(requests))):
            if (ids := self._ids[index]) is None:
                failure = Failure("over_memory_budget", "needs 9 GiB")
                completion = Completion(index, [], "failed", failure)
            else:
                completion = Completion(index, ids, "length" if index == 0 else "stop")
            assert again(completion) is None
            yield completion


@pytest.fixture
def scripted(explainer):
    def make(*texts: str | None) -> Explainer:
        engine = ScriptedEngine(explainer.pairs, texts)
        return changed(explainer, engine=engine, model_fingerprint="f" * 16)

    return make


def explained(explainer: Explainer, *pairs: str) -> tuple[pa.Table, pa.Table]:
    return explain_pairs(explainer, pairs_table(*pairs), DecodingConfig(), "0123")


def test_explain_pairs_each_text_stands_beside_its_own_pair(scripted):
    texts = ("First.", "second one", "third")
    explainer = scripted(*texts)
    given = ["u0 i0", "u0 i1", "u10 i2"]
    generated, failed = explained(explainer, *given)
    assert generated.schema.equals(GENERATED)
    assert failed.equals(FAILED.empty_table())
    rows = generated.to_pylist()
    assert pairs_of(rows) == given
    assert [row["explanation"] for row in rows] == list(texts)
    assert [row["finish_reason"] for row in rows] == ["length", "stop", "stop"]
    prompts = explainer.engine.prompts
    assert [row["num_prompt_tokens"] for row in rows] == [len(prompt) for prompt in prompts]
    assert [row["num_generated_tokens"] for row in rows] == [
        len(explainer.pairs.builder.encode_explanation(text)) - 1 for text in texts
    ]
    assert {row["model_fingerprint"] for row in rows} == {"f" * 16}


def test_explain_pairs_failed_rows_are_typed_and_the_rest_is_explained(scripted):
    given = ["nobody i0", "u0 i0", "u0 nothing", "u1 i0", "u1 wordy", "u2 i0"]
    generated, failed = explained(scripted("A garden.", " \n ", None), *given)
    assert pairs_of(generated.to_pylist()) == ["u0 i0"]
    assert generated["explanation"].to_pylist() == ["A garden."]
    rows = {row["reason"]: row for row in failed.to_pylist()}
    assert {reason: pairs_of([row])[0] for reason, row in rows.items()} == {
        "unknown_user": "nobody i0",
        "unknown_item": "u0 nothing",
        "empty_text": "u1 i0",
        "prompt_too_long": "u1 wordy",
        "over_memory_budget": "u2 i0",
    }
    for reason, message, texts in (
        ("unknown_user", "user 'nobody' is not among the 12 users", ("", "Place 0", GARDEN)),
        ("unknown_item", "item 'nothing' is not among the 6", ("Guest number 0.", "", "")),
        ("prompt_too_long", "at most 400 allowed (prompt.max_prompt_tokens)", None),
        ("empty_text", "", ("Guest number 1.", "Place 0", GARDEN)),
        ("over_memory_budget", "needs 9 GiB", ("Guest number 2.", "Place 0", GARDEN)),
    ):
        row = rows[reason]
        assert message in row["message"]
        said = (row["user_profile"], row["item_title"], row["item_profile"])
        assert texts in (None, said)


def test_explain_pairs_gives_the_evidence_of_aspects(scripted, monkeypatch):
    explainer = scripted("You will like the late hours.", "Quiet.")
    late_hour = AspectEvidence("late hour", 14, 31, 3, 7, opinion="open until two")
    chosen = (late_hour, AspectEvidence("tea", 2, 31, 0, 7))
    explainer.checker = Checker(["late hour", "tea"])
    texts_of = explainer.pairs.texts_of
    monkeypatch.setattr(
        explainer.pairs,
        "texts_of",
        lambda some: [replace(texts, aspects=chosen) for texts in texts_of(some)],
    )
    generated, _ = explained(explainer, "u0 i0", "u0 i1")
    first, second = generated["aspects"].to_pylist()
    counts = {"num_item_reviews": 31, "num_user_reviews": 7}
    late = {"aspect": "late hour", "item_reviews": 14, "user_reviews": 3, **counts}
    late["opinion"] = "open until two"
    tea = {"aspect": "tea", "item_reviews": 2, "user_reviews": 0, "opinion": "", **counts}
    assert first == [{**late, "is_named": True}, {**tea, "is_named": False}]
    assert second == [{**late, "is_named": False}, {**tea, "is_named": False}]


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


STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def progress_of(**values: Any) -> Progress:
    """Of a driver that had its first result five seconds after the start."""
    ready = STARTED + timedelta(seconds=5)
    return Progress(written_at=STARTED, started_at=STARTED, working_since=ready, **values)


class Recorded:
    """Stands for Ray's counters and gauges, by name and tag."""

    values: ClassVar[dict[tuple[str, str], float]] = {}

    def __init__(self, name: str, *description: Any):
        self._name = name.removeprefix("xrec_backfill_")

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        key = (self._name, *tags.values(), "")[:2]
        self.values[key] = self.values.get(key, 0) + amount

    def set(self, value: float) -> None:
        self.values[self._name, ""] = value


def test_metrics_count_what_this_driver_did(monkeypatch):
    monkeypatch.setattr(driver, "Counter", Recorded)
    monkeypatch.setattr(driver, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    recorder = BackfillMetrics(100)
    for num_ok, failed, carried, tokens, deaths in (
        (20, {"empty_text": 3}, 2.0, 50.0, 1),  # of earlier drivers
        (30, {"empty_text": 4}, 5.0, 90.0, 3),
        (34, {"engine_error": 1}, 5.0, 99.0, 3),  # a retry
    ):
        costs = {"carried": carried, "num_generated_tokens": tokens, "seconds": tokens / 10}
        recorder.record(progress_of(num_ok=num_ok, failed=failed, costs=costs, num_deaths=deaths))
    assert Recorded.values == {
        ("pairs_total", "explained"): 11,
        ("pairs_total", "carried"): 3,
        ("pairs_total", "empty_text"): 1,
        ("pairs_total", "engine_error"): 1,
        ("tokens_total", "generated"): 49,
        ("deaths_total", ""): 2,
        ("actor_seconds_total", ""): pytest.approx(4.9),
        ("pairs_left", ""): 65,
    }


def test_progress_line_tells_this_drivers_rate_and_the_time_left():
    progress = progress_of(num_ok=1020, num_rows_before=1005, failed={"empty_text": 5})
    line = progress_line(progress, 101_025, STARTED + timedelta(seconds=5 + 10))
    assert line == "1,020 explained, 5 failed, 100,000 left; 2.0 pairs/s, 13.9 h to go"


def test_progress_line_before_the_first_result_knows_no_rate():
    line = progress_line(progress_of(), 7, STARTED)
    assert line == "0 explained, 0 failed, 7 left"

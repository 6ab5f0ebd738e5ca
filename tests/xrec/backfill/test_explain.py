"""A pair becomes an explanation, or a failed row with a typed reason, its texts and a message."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import pairs_of
from xrec.adapter.pairs import PairPrompts
from xrec.backfill.explain import explain_pairs
from xrec.backfill.identity import sources_of
from xrec.checks import Checker
from xrec.config.decoding import DecodingConfig
from xrec.config.engine import EngineConfig
from xrec.data.evidence import AspectEvidence
from xrec.generate.engine import Completion, Failure
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.schemas import FAILED, GENERATED

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
SHARED = "0123"
GARDEN = "Quiet, with a garden."


class ScriptedEngine:
    """Writes the given texts, beginning with the last prompt."""

    def __init__(self, pairs: PairPrompts, texts: Sequence[str]):
        self._ids = [pairs.builder.encode_explanation(text)[:-1] for text in texts]
        self.prompts: list[list[int]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, is_refused: object = None
    ) -> Iterator[Completion]:
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


def test_explain_pairs_each_text_stands_beside_its_own_pair(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    texts = ("First.", "second one", "third")
    explainer = scripted(*texts)
    given = pairs("u0 i0", "u0 i1", "u10 i2")
    generated, failed = explain_pairs(explainer, given, DecodingConfig(), SHARED)
    assert generated.schema.equals(GENERATED)
    assert failed.equals(FAILED.empty_table())
    rows = generated.to_pylist()
    assert pairs_of(rows) == pairs_of(given.to_pylist())
    assert [row["explanation"] for row in rows] == list(texts)
    assert [row["finish_reason"] for row in rows] == ["length", "stop", "stop"]
    prompts = explainer.engine.prompts  # type: ignore[attr-defined]
    assert [row["num_prompt_tokens"] for row in rows] == [len(prompt) for prompt in prompts]
    assert [row["num_generated_tokens"] for row in rows] == [
        len(explainer.pairs.builder.encode_explanation(text)) - 1 for text in texts
    ]
    assert {row["model_fingerprint"] for row in rows} == {"f" * 16}


def test_explain_pairs_failed_rows_are_typed_with_their_texts_and_the_rest_is_explained(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    given = pairs("nobody i0", "u0 i0", "u0 nothing", "u1 i0", "u1 wordy")
    explainer = scripted("A garden.", " \n ")
    generated, failed = explain_pairs(explainer, given, DecodingConfig(), SHARED)
    assert pairs_of(generated.to_pylist()) == ["u0 i0"]
    assert generated["explanation"].to_pylist() == ["A garden."]
    rows = {row["reason"]: row for row in failed.to_pylist()}
    assert {reason: pairs_of([row])[0] for reason, row in rows.items()} == {
        "unknown_user": "nobody i0",
        "unknown_item": "u0 nothing",
        "empty_text": "u1 i0",
        "prompt_too_long": "u1 wordy",
    }
    for reason, message, texts in (
        ("unknown_user", "user 'nobody' is not among the 12 users", ("", "Place 0", GARDEN)),
        ("unknown_item", "item 'nothing' is not among the 6", ("Guest number 0.", "", "")),
        ("prompt_too_long", "at most 150 allowed (prompt.max_prompt_tokens)", None),
        ("empty_text", "", ("Guest number 1.", "Place 0", GARDEN)),
    ):
        row = rows[reason]
        assert message in row["message"]
        said = (row["user_profile"], row["item_title"], row["item_profile"])
        assert texts in (None, said)


def test_explain_pairs_searches_no_close_id_for_unknown_ones(
    scripted: Callable[..., Explainer], pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search through 20,000 ids for each unknown one takes longer than the explanations do."""
    searches: list[object] = []
    monkeypatch.setattr(difflib, "SequenceMatcher", lambda *a: searches.append(a))
    unknown = pairs(*(f"u{number} i0" for number in range(100, 200)))
    _, failed = explain_pairs(scripted(), unknown, DecodingConfig(), SHARED)
    assert failed.num_rows == 100
    assert searches == []


def test_explain_pairs_nothing_to_explain_gives_empty_tables(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    generated, failed = explain_pairs(scripted(), pairs("nobody i0"), DecodingConfig(), SHARED)
    assert generated.equals(GENERATED.empty_table())
    assert failed["reason"].to_pylist() == ["unknown_user"]


class _RefusingEngine:
    """Fails the first prompt, and writes a text for the others."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, is_refused: object = None
    ) -> Iterator[Completion]:
        yield Completion(0, [], "failed", Failure("over_memory_budget", "needs 9 GiB"))
        for index in range(1, len(prompts)):
            yield Completion(index, [40, 41], "stop")


def test_explain_pairs_prompt_that_the_engine_refuses_is_a_failed_row(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    explainer = scripted()
    explainer.engine = _RefusingEngine()
    generated, failed = explain_pairs(
        explainer, pairs("u0 i0", "u1 i0", "u2 i0"), DecodingConfig(), SHARED
    )
    assert generated["user_id"].to_pylist() == ["u1", "u2"]
    (row,) = failed.to_pylist()
    assert (row["user_id"], row["reason"], row["message"]) == (
        "u0",
        "over_memory_budget",
        "needs 9 GiB",
    )


def test_explain_pairs_evidence_of_the_chosen_aspects_stands_beside_the_text(
    scripted: Callable[..., Explainer], pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    generated, _ = explain_pairs(explainer, pairs("u0 i0", "u0 i1"), DecodingConfig(), SHARED)
    first, second = generated["aspects"].to_pylist()
    counts = {"num_item_reviews": 31, "num_user_reviews": 7}
    late = {"aspect": "late hour", "item_reviews": 14, "user_reviews": 3, **counts}
    late["opinion"] = "open until two"
    tea = {"aspect": "tea", "item_reviews": 2, "user_reviews": 0, "opinion": "", **counts}
    assert first == [{**late, "is_named": True}, {**tea, "is_named": False}]
    assert second == [{**late, "is_named": False}, {**tea, "is_named": False}]

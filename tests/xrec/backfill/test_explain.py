"""A pair becomes an explanation, or a failed row with a typed reason, its texts and a message."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

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
    explainer = scripted("First.", "second one", "third")
    generated, failed = explain_pairs(
        explainer, pairs("u0 i0", "u0 i1", "u10 i2"), DecodingConfig(), SHARED
    )
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
    assert [row["num_prompt_tokens"] for row in rows] == [
        len(prompt) for prompt in explainer.engine.prompts
    ]  # type: ignore[attr-defined]
    assert [row["num_generated_tokens"] for row in rows] == [
        len(explainer.pairs.builder.encode_explanation(text)) - 1
        for text in ("First.", "second one", "third")
    ]
    assert {row["model_fingerprint"] for row in rows} == {"f" * 16}


def test_explain_pairs_failed_rows_are_typed_and_the_rest_is_explained(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    explainer = scripted("A garden.", " \n ")
    generated, failed = explain_pairs(
        explainer,
        pairs("nobody i0", "u0 i0", "u0 nothing", "u1 i0", "u1 wordy"),
        DecodingConfig(),
        SHARED,
    )
    assert [
        (row["user_id"], row["item_id"], row["explanation"]) for row in generated.to_pylist()
    ] == [("u0", "i0", "A garden.")]
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


def test_explain_pairs_failed_rows_hold_the_texts_of_what_is_known(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    _, failed = explain_pairs(
        scripted("", ""), pairs("nobody i0", "u0 nothing", "u1 i2"), DecodingConfig(), SHARED
    )
    rows = {
        row["user_id"]: (row["user_profile"], row["item_title"], row["item_profile"])
        for row in failed.to_pylist()
    }
    assert rows == {
        "nobody": ("", "Place 0", "Quiet, with a garden."),
        "u0": ("Guest number 0.", "", ""),
        "u1": ("Guest number 1.", "Place 2", "Quiet, with a garden."),
    }


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

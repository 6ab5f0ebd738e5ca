"""A pair becomes an explanation, or a failed row with a typed reason, its texts and a message."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from xrec.adapter.pairs import PairPrompts
from xrec.backfill.explain import explain_or_fail, explain_pairs
from xrec.backfill.identity import sources_of
from xrec.config.llm import DecodingConfig, EngineConfig
from xrec.generate.engine import Completion, Failure
from xrec.generate.explainer import Explainer, load_explainer
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
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
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


@dataclass
class _BreakingEngine:
    """Raises an error for a batch with tokens of `broken`, and fails prompts with `refused`."""

    broken: frozenset[int]
    refused: frozenset[int] = frozenset()
    num_calls: int = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        self.num_calls += 1
        if any(self.broken.intersection(prompt) for prompt in prompts):
            raise RuntimeError("CUDA error: an illegal memory access")
        for index, prompt in enumerate(prompts):
            if self.refused.intersection(prompt):
                yield Completion(index, [], "failed", Failure("over_memory_budget", "needs 9 GiB"))
            else:
                yield Completion(index, [40, 41], "stop")


def test_explain_or_fail_rows_that_the_engine_raises_for_are_found_and_the_rest_is_explained(
    scripted: Callable[..., Explainer], pairs: MakePairs
) -> None:
    explainer = scripted()
    user_tokens = explainer.pairs.builder.vocabulary.user_tokens
    explainer.engine = _BreakingEngine(
        frozenset([*user_tokens(3), *user_tokens(7)]), frozenset(user_tokens(5))
    )
    result = explain_or_fail(
        explainer,
        pairs(*(f"u{user} i0" for user in range(10)), "nobody i0"),
        DecodingConfig(),
        SHARED,
    )
    assert result.generated["user_id"].to_pylist() == ["u0", "u1", "u2", "u4", "u6", "u8", "u9"]
    reasons = {row["user_id"]: (row["reason"], row["message"]) for row in result.failed.to_pylist()}
    assert {user: reason for user, (reason, _) in reasons.items()} == {
        "u3": "engine_error",
        "u5": "over_memory_budget",
        "u7": "engine_error",
        "nobody": "unknown_user",
    }
    assert reasons["u3"][1] == "RuntimeError: CUDA error: an illegal memory access"
    assert reasons["u5"][1] == "needs 9 GiB"
    assert explainer.engine.num_calls <= 16  # batches are halved, not tried row by row


def test_explain_or_fail_our_own_errors_are_not_the_rows(
    scripted: Callable[..., Explainer], pairs: MakePairs, monkeypatch: Any
) -> None:
    explainer = scripted("text")

    def without_attribute(*arguments: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(explainer, "explain", without_attribute)
    with pytest.raises(AttributeError):
        explain_or_fail(explainer, pairs("u0 i0"), DecodingConfig(), SHARED)

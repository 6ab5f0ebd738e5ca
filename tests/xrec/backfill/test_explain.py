"""A pair becomes an explanation, or a failed row with a typed reason, its texts and a message."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import changed, pairs_of, pairs_table
from xrec.adapter.pairs import PairPrompts
from xrec.backfill.explain import explain_pairs
from xrec.checks import Checker
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

"""A pair becomes an explanation or a failed row; what a run and each text are known by."""

import itertools
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.xrec.backfill.runs import OTHER_DECODING, changed, pairs_of, pairs_table
from xrec.adapter.pairs import Pair, PairPrompts
from xrec.backfill.explain import explain_pairs, why_again
from xrec.backfill.identity import (
    PARTS,
    changed_parts,
    content_key,
    identify,
    identify_unchecked,
    shared_key,
)
from xrec.checks import Checker
from xrec.config import DecodingConfig, TextConfig
from xrec.data import AspectEvidence
from xrec.errors import Failure
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer
from xrec.generate.loading import sources_of
from xrec.generate.shared_engine import Again, Requests
from xrec.schemas import FAILED, GENERATED, SUPPORT
from xrec.storage import run_fingerprint

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
        ("prompt_too_long", "prompt.max_prompt_tokens = 400", None),
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


def test_identity_with_another_dtype_is_another_run(runs):
    one = runs.config()
    other = one.model_copy(update={"llm": one.llm.model_copy(update={"dtype": "bfloat16"})})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {"llm"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"decoding": OTHER_DECODING}, "decoding"),
        ({"pairs": {"kind": "split", "split": "train"}}, "pairs"),
        ({"engine": {"kind": "vllm", "vllm": {"quantization": "fp8"}}}, "engine"),
        ({"engine": {"kind": "builtin"}}, "engine"),
    ],
)
def test_identity_of_other_settings_differs(runs, values, key):
    one, other = (identify(runs.config(**each)) for each in ({}, values))
    assert {name for name in one.config if one.config[name] != other.config[name]} == {key}
    assert one.run != other.run
    assert one.run == run_fingerprint("explanations", one.config, one.inputs)
    assert (shared_key(one) == shared_key(other)) is (key == "pairs")


def test_identity_does_not_depend_on_places_and_on_how_the_work_is_done(runs):
    other = runs.config(
        explanations=str(runs.folder / "elsewhere"),
        rows_per_chunk=5,
        carry_from=None,
        gate={"plain": 0.5},
        actors={"num_processes": 1, "device": "cpu"},
        engine={"max_rows": 2, "vllm": {"max_num_batched_tokens": 4096}},
        max_failed_share=0.1,
        retry_failed="all",
        vacuum_hours=168,
    )
    assert identify(other) == identify(runs.config()) == identify_unchecked(runs.config())
    tables = [runs.config(pairs={"kind": "table", "uri": uri}) for uri in ("one", "another")]
    assert identify(tables[0]) == identify(tables[1])


def test_sources_can_be_opened_from_anywhere(runs, monkeypatch):
    monkeypatch.chdir(runs.folder)
    sources = sources_of(runs.config(adapter="mine", graph="s3://bucket/graph"))
    assert (sources.adapter, sources.graph) == (str(runs.folder / "mine"), "s3://bucket/graph")


RULES = TextConfig()


def _with_text(explainer: Explainer, table: str, column: str, row: int) -> Explainer:
    rows = getattr(explainer.dataset, table)
    texts = rows[column].to_pylist()
    texts[row] += " And more."
    place = rows.schema.get_field_index(column)
    others = {table: rows.set_column(place, rows.schema.field(place), [texts])}
    dataset = replace(explainer.dataset, **others)
    return changed(explainer, pairs=PairPrompts(dataset, explainer.pairs.builder))


def _with_vector(explainer: Explainer, side: str, row: int) -> Explainer:
    vectors = getattr(explainer.graph, side).clone()
    vectors[row, 0] += 1e-6
    assert not torch.equal(vectors, getattr(explainer.graph, side))
    return changed(explainer, graph=replace(explainer.graph, **{side: vectors}))


def key_of(explainer: Explainer, shared: str, user: int, item: int, **texts: Any) -> str:
    pair = Pair(user, item)
    return content_key(explainer, shared, pair, replace(explainer.pairs.texts(pair), **texts))


def test_content_key_changes_with_the_pairs_texts_and_vectors_alone(explainer):
    def keys(explainer: Explainer, shared: str = "s") -> dict[tuple[int, int], str]:
        pairs = itertools.product(range(3), range(3))
        return {pair: key_of(explainer, shared, *pair) for pair in pairs}

    before = keys(explainer)
    assert len({*before.values(), *keys(explainer, "t").values()}) == 18
    of_user, of_item = {(1, item) for item in range(3)}, {(user, 2) for user in range(3)}
    for other, expected in (
        (_with_text(explainer, "users", "profile", 1), of_user),
        (_with_vector(explainer, "users", 1), of_user),
        (_with_text(explainer, "items", "title", 2), of_item),
        (_with_text(explainer, "items", "profile", 2), of_item),
        (_with_vector(explainer, "items", 2), of_item),
    ):
        after = keys(other)
        assert {pair for pair in before if after[pair] != before[pair]} == expected


def test_shared_key_depends_on_the_inputs_that_all_pairs_share(runs):
    one = identify(runs.config())
    for name in one.inputs:
        other = one.model_copy(update={"inputs": {**one.inputs, name: "another"}})
        assert (shared_key(one) == shared_key(other)) is (name in ("dataset", "graph"))


def test_changed_parts_are_those_that_two_keys_differ_in(explainer):
    before, chosen = key_of(explainer, "s", 1, 2), AspectEvidence("garden", 3, 7, 1, 2)
    named = key_of(explainer, "s", 1, 2, aspects=(chosen,))
    changes = {
        ("settings",): (before, key_of(explainer, "t", 1, 2)),
        ("user_texts",): (before, key_of(explainer, "s", 1, 2, user_profile="A poet.")),
        ("item_texts",): (before, key_of(explainer, "s", 1, 2, item_title="B")),
        ("user_vector",): (before, key_of(_with_vector(explainer, "users", 1), "s", 1, 2)),
        ("item_vector",): (before, key_of(_with_vector(explainer, "items", 2), "s", 1, 2)),
        ("aspects", "evidence"): (before, named),
        ("evidence",): (
            named,
            key_of(explainer, "s", 1, 2, aspects=(replace(chosen, item_reviews=4),)),
        ),
        PARTS: (before[:16], before),  # of an older xrec
    }
    for expected, keys in changes.items():
        assert changed_parts(*keys) == expected


def test_evidence_that_nobody_was_told_may_change_and_the_text_stays(explainer):
    dataset, prompt = explainer.dataset, explainer.pairs.builder.prompt
    ids = {"user_id": dataset.users["user_id"][1].as_py()}
    ids["item_id"] = dataset.items["item_id"][2].as_py()
    key = key_of(explainer, "s", 1, 2)
    evidence = 16 + 3 * PARTS.index("evidence")
    other = "0" * 16 + key[16:evidence] + "---" + key[evidence + 3 :]

    def why(
        text="A good place to read.",
        kind="written",
        rules=RULES,
        aspect="{aspect}",
        aspects=(),
        reason=None,
        content_key=other,
    ):
        shown = copy(explainer.pairs.builder)
        shown.prompt = prompt.model_copy(update={"aspect": aspect})
        told = changed(explainer, pairs=PairPrompts(dataset, shown))
        status = "failed" if reason else "ok"
        row = {**ids, "status": status, "reason": reason, "content_key": content_key}
        row |= {
            "explanation": text,
            "kind": kind,
            "aspects": aspects,
            **dict.fromkeys(SUPPORT.names),
        }
        return why_again(told, pa.Table.from_pylist([row]), rules, "s")[0].as_py()

    assert why() is None
    assert why(kind="plain") == "evidence"
    assert why(aspects=[{"opinion": "quiet"}]) == "evidence"  # it is no quote any more
    assert why(rules=RULES.model_copy(update={"is_backed": True})) == "evidence"
    assert why(aspect="{aspect} ({user_reviews} visits)") == "evidence"
    assert why(text="Write to me@shop.example.") == "evidence"  # refused today
    said = {"text": None, "kind": None, "aspects": None}
    assert why(**said, reason="abstained") == "evidence"
    assert why(**said, reason="abstained", content_key=key) is None
    assert why(**said, reason="engine_error", content_key=key) == "failed"

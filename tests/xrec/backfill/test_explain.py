"""A pair becomes an explanation or a failed row; the identities of runs and texts."""

import itertools
from copy import copy
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.xrec.backfill.runs import OTHER_DECODING, pairs_of, pairs_table
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
from xrec.generate.explainer import Explainer
from xrec.schemas import FAILED, GENERATED, SUPPORT, USER_ASPECTS
from xrec.storage import run_fingerprint

GARDEN = "Quiet, with a garden."


def explained(explainer: Explainer, *pairs: str) -> tuple[pa.Table, pa.Table]:
    return explain_pairs(explainer, pairs_table(*pairs), DecodingConfig(), "0123")


def test_explain_pairs_explains_good_pairs_and_types_the_failures_of_others(scripted):
    given = ["nobody i0", "u0 i0", "u0 nothing", "u1 i0", "u1 wordy", "u2 i0", "u10 i2"]
    texts = ("A garden.", " \n ", None, "second one")
    generated, failed = explained(explainer := scripted(*texts), *given)
    assert generated.schema.equals(GENERATED)
    rows = generated.to_pylist()
    assert pairs_of(rows) == ["u0 i0", "u10 i2"]
    assert [row["explanation"] for row in rows] == ["A garden.", "second one"]
    assert [row["finish_reason"] for row in rows] == ["length", "stop"]
    prompts, builder = explainer.engine.prompts, explainer.pairs.builder
    assert [row["num_prompt_tokens"] for row in rows] == [len(prompts[0]), len(prompts[3])]
    assert [row["num_generated_tokens"] for row in rows] == [
        len(builder.encode_explanation(row["explanation"])) - 1 for row in rows
    ]
    assert {row["model_fingerprint"] for row in rows} == {"f" * 16}
    assert failed.schema.equals(FAILED)
    guests = [(f"Guest number {number}.", "Place 0", GARDEN) for number in range(3)]
    expected = {
        "unknown_user": ("nobody i0", "'nobody' is not among the 12 users", ("", *guests[0][1:])),
        "unknown_item": ("u0 nothing", "'nothing' is not among the 6", (guests[0][0], "", "")),
        "empty_text": ("u1 i0", "", guests[1]),
        "prompt_too_long": ("u1 wordy", "prompt.max_prompt_tokens = 400", None),
        "over_memory_budget": ("u2 i0", "needs 9 GiB", guests[2]),
    }
    assert sorted(failed["reason"].to_pylist()) == sorted(expected)
    for row in failed.to_pylist():
        pair, message, shown = expected[row["reason"]]
        assert pairs_of([row]) == [pair]
        assert message in row["message"]
        assert shown in (None, (row["user_profile"], row["item_title"], row["item_profile"]))


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


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("decoding", OTHER_DECODING),
        ("pairs", {"kind": "split", "split": "train"}),
        ("engine", {"kind": "vllm", "vllm": {"quantization": "fp8"}}),
        ("engine", {"kind": "builtin"}),
        ("llm", {"dtype": "bfloat16"}),
    ],
)
def test_identity_of_other_settings_differs(runs, key, values):
    settings = runs.config().llm.model_dump() | values if key == "llm" else values
    configs = [runs.config(), runs.config(**{key: settings})]
    one, other = map(identify, configs)
    assert {name for name in one.config if one.config[name] != other.config[name]} == {key}
    assert one.run != other.run
    assert one.run == run_fingerprint("explanations", one.config, one.inputs)
    assert (shared_key(one) == shared_key(other)) is (key == "pairs")
    assert identify_unchecked(configs[1]) == other


RULES = TextConfig()


def _with_text(explainer: Explainer, table: str, column: str, row: int) -> Explainer:
    rows = getattr(explainer.dataset, table)
    texts = rows[column].to_pylist()
    texts[row] += " And more."
    place = rows.schema.get_field_index(column)
    others = {table: rows.set_column(place, rows.schema.field(place), [texts])}
    dataset = replace(explainer.dataset, **others)
    return replace(explainer, pairs=PairPrompts(dataset, explainer.pairs.builder))


def _with_vector(explainer: Explainer, side: str, row: int) -> Explainer:
    vectors = getattr(explainer.graph, side).clone()
    vectors[row, 0] += 1e-6
    assert not torch.equal(vectors, getattr(explainer.graph, side))
    return replace(explainer, graph=replace(explainer.graph, **{side: vectors}))


def key_of(explainer: Explainer, shared: str, user: int, item: int, **texts: Any) -> str:
    pair = Pair(user, item)
    return content_key(explainer, shared, pair, replace(explainer.pairs.texts(pair), **texts))


def test_texts_per_user_leaves_the_others_to_plain_sentences_by_rank_and_hash(scripted):
    explainer = scripted(*["A garden."] * 30)
    ids = [f"u{user} i{item}" for user in range(10) for item in range(3)]
    ranks = pa.array([1, 2, 3] * 10, pa.int32())
    pairs = pairs_table(*ids)
    pairs = pairs.set_column(pairs.schema.get_field_index("rank"), "rank", ranks)
    decoding = DecodingConfig(text={"fallback": "plain"})
    generated, failed = explain_pairs(explainer, pairs, decoding, "0123", 1.4)
    written = {
        tuple(row["item_id"] for row in generated.to_pylist() if row["user_id"] == f"u{user}")
        for user in range(10)
    }
    assert written == {("i0",), ("i0", "i1")}
    assert {row["reason"] for row in failed.to_pylist()} == {"abstained"}  # no evidence here
    assert generated.num_rows + failed.num_rows == 30
    rows = generated.append_column("status", pa.repeat("ok", generated.num_rows))
    rows = rows.append_column("reason", pa.nulls(rows.num_rows, pa.string()))
    places = [ids.index(f"{row['user_id']} {row['item_id']}") for row in generated.to_pylist()]
    rows = rows.set_column(rows.schema.get_field_index("rank"), "rank", ranks.take(places))
    for share, num_again in ((1.4, 0), (None, 0), (1, generated.num_rows - 10)):
        again = why_again(explainer, rows, decoding.text, "0123", share)
        assert len(again) - again.null_count == num_again


def test_content_key_depends_only_on_the_texts_and_vectors_of_the_pair(explainer):
    def keys(explainer: Explainer, shared: str = "s") -> dict[tuple[int, int], str]:
        pairs = itertools.product(range(3), range(3))
        return {pair: key_of(explainer, shared, *pair) for pair in pairs}

    before = keys(explainer)
    assert len({*before.values(), *keys(explainer, "t").values()}) == 18
    of_user, of_item = {(1, item) for item in range(3)}, {(user, 2) for user in range(3)}
    for other, expected, part in (
        (_with_text(explainer, "users", "profile", 1), of_user, "user_texts"),
        (_with_vector(explainer, "users", 1), of_user, "user_vector"),
        (_with_text(explainer, "items", "title", 2), of_item, "item_texts"),
        (_with_text(explainer, "items", "profile", 2), of_item, "item_texts"),
        (_with_vector(explainer, "items", 2), of_item, "item_vector"),
    ):
        after = keys(other)
        assert {pair for pair in before if after[pair] != before[pair]} == expected
        assert changed_parts(before[1, 2], after[1, 2]) == (part,)


def test_shared_key_depends_on_the_inputs_common_to_all_pairs(runs):
    one = identify(runs.config())
    for name in one.inputs:
        other = one.model_copy(update={"inputs": {**one.inputs, name: "another"}})
        assert (shared_key(one) == shared_key(other)) is (name in ("dataset", "graph"))


def test_changed_parts_are_those_in_which_two_keys_differ(explainer):
    before, chosen = key_of(explainer, "s", 1, 2), AspectEvidence("garden", 3, 7, 1, 2)
    named = key_of(explainer, "s", 1, 2, aspects=(chosen,))
    counted = key_of(explainer, "s", 1, 2, aspects=(replace(chosen, item_reviews=4),))
    assert changed_parts(before, key_of(explainer, "t", 1, 2)) == ("settings",)
    assert changed_parts(before, named) == ("aspects", "evidence")
    assert changed_parts(named, counted) == ("evidence",)
    assert changed_parts(before[:16], before) == PARTS  # of an older xrec


def test_text_is_kept_when_only_evidence_that_it_does_not_show_changed(explainer):
    dataset, prompt = explainer.dataset, explainer.pairs.builder.prompt
    ids = {"user_id": dataset.users["user_id"][1].as_py()}
    ids["item_id"] = dataset.items["item_id"][2].as_py()
    key = key_of(explainer, "s", 1, 2)
    evidence = 16 + 3 * PARTS.index("evidence")
    other = "0" * 16 + key[16:evidence] + "---" + key[evidence + 3 :]

    def why(rules=RULES, aspect="{aspect}", **values):
        shown = copy(explainer.pairs.builder)
        shown.prompt = prompt.model_copy(update={"aspect": aspect})
        showing = replace(explainer, pairs=PairPrompts(dataset, shown))
        row = {**ids, "status": "failed" if "reason" in values else "ok", "reason": None}
        row |= {"content_key": other, "explanation": "A good place to read.", "kind": "written"}
        row |= {"aspects": (), **dict.fromkeys(SUPPORT.names), **values}
        return why_again(showing, pa.Table.from_pylist([row]), rules, "s")[0].as_py()

    assert why() is None
    assert why(kind="plain") == "evidence"
    assert why(aspects=[{"opinion": "quiet"}]) == "evidence"  # no longer a quote
    assert why(rules=RULES.model_copy(update={"is_backed": True})) == "evidence"
    assert why(aspect="{aspect} ({user_reviews} visits)") == "evidence"
    assert why(explanation="Write to me@shop.example.") == "evidence"  # refused today
    nothing = {"explanation": None, "kind": None, "aspects": None}
    assert why(**nothing, reason="abstained") == "evidence"
    assert why(**nothing, reason="abstained", content_key=key) is None
    assert why(**nothing, reason="engine_error", content_key=key) == "failed"

    counts = dict(zip(USER_ASPECTS.names, [[1], [0], [1], [0], [1]], strict=True))
    blamed = replace(
        dataset,
        aspects=pa.table({"aspect": ["garden"]}),
        user_aspects=pa.table(counts),
    )
    prompts = PairPrompts(blamed, explainer.pairs.builder)
    showing = replace(explainer, pairs=prompts, checker=Checker(["garden"]))
    row = {**ids, "status": "ok", "reason": None, "content_key": key, "kind": "written"}
    row |= {"explanation": GARDEN, "aspects": (), **dict.fromkeys(SUPPORT.names)}
    for is_on in (True, False):  # a text that praises what its user complains of now
        rules = TextConfig(checks={"complained": is_on})
        (reason,) = why_again(showing, pa.Table.from_pylist([row]), rules, "s").to_pylist()
        assert reason == ("complained" if is_on else None)

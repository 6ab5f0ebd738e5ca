"""What a run is known by, and each text: its content key changes with all that it depends on."""

import itertools
from copy import copy
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.xrec.backfill.runs import OTHER_DECODING, changed
from xrec.adapter.pairs import Pair, PairPrompts
from xrec.backfill.explain import why_again
from xrec.backfill.identity import (
    PARTS,
    changed_parts,
    content_key,
    identify,
    identify_unchecked,
    shared_key,
)
from xrec.bulk import Identity
from xrec.config.decoding import TextConfig
from xrec.config.identity import identity_of
from xrec.data.evidence import AspectEvidence
from xrec.generate.explainer import Explainer
from xrec.generate.loading import sources_of
from xrec.storage import run_fingerprint

TWO = {"kind": "split", "max_pairs": 2}
FP8 = {"kind": "vllm", "vllm_options": {"quantization": "fp8", "kv_cache_dtype": "fp8"}}


def test_identity_is_the_manifests_run(runs):
    identity = identify(runs.config())
    assert identity.run == run_fingerprint("explanations", identity.config, identity.inputs)
    assert identify_unchecked(runs.config()) == identity


def test_identity_with_another_dtype_is_another_run(runs):
    one = runs.config()
    other = one.model_copy(update={"llm": one.llm.model_copy(update={"dtype": "bfloat16"})})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {"llm"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"decoding": OTHER_DECODING}, "decoding"),
        ({"pairs": {"kind": "split", "max_pairs": 3}}, "pairs"),
        ({"engine": FP8}, "engine"),
        ({"engine": {"kind": "builtin"}}, "engine"),
    ],
)
def test_identity_of_other_settings_differs(runs, values, key):
    one, other = runs.config(pairs=TWO), runs.config(**{"pairs": TWO, **values})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {key}
    assert identify(one).run != identify(other).run
    is_same = shared_key(identify(one)) == shared_key(identify(other))
    assert is_same is (key == "pairs")


def test_identity_has_every_option_that_is_not_listed(runs):
    assert identify(runs.config()).config == identity_of(runs.config())


def test_identity_does_not_depend_on_places_and_on_how_the_work_is_done(runs):
    other = runs.config(
        explanations=str(runs.folder / "elsewhere"),
        rows_per_chunk=5,
        carry_from=None,
        gate={"plain": 0.5},
        actors={"num_actors": 1, "device": "cpu"},
        engine={"max_rows": 2, "vllm_options": {"max_num_batched_tokens": 4096}},
        max_failed_share=0.1,
        retry_failed="all",
        vacuum_hours=168,
    )
    assert identify(other) == identify(runs.config())
    tables = [runs.config(pairs={"kind": "table", "uri": uri}) for uri in ("one", "another")]
    assert identify(tables[0]) == identify(tables[1])


def test_sources_can_be_opened_from_anywhere(runs, monkeypatch):
    monkeypatch.chdir(runs.folder)
    sources = sources_of(runs.config(adapter="mine", graph="s3://bucket/graph"))
    assert (sources.adapter, sources.graph) == (str(runs.folder / "mine"), "s3://bucket/graph")


CONFIG = {"decoding": {"max_new_tokens": 4}, "llm": {"dtype": "auto"}, "pairs": {}}
RULES = TextConfig()
INPUTS = {"base_model": "b", "adapter": "a", "dataset": "d", "graph": "g"}


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


def test_content_key_changes_with_chosen_aspects_and_their_evidence(explainer):
    chosen = AspectEvidence("garden", 3, 7, 1, 2)
    more, other = replace(chosen, item_reviews=4), replace(chosen, opinion="quiet")
    said = [(), (chosen,), (more,), (other,), (chosen, chosen)]
    keys = [key_of(explainer, "s", 1, 2, aspects=aspects) for aspects in said]
    assert len(set(keys)) == len(keys)
    assert key_of(explainer, "s", 1, 2, menu=frozenset(["garden"])) == keys[0]


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


@pytest.mark.parametrize(
    ("config", "inputs", "is_same"),
    [
        ({}, {"dataset": "e", "graph": "h"}, True),
        ({"pairs": {"kind": "split"}}, {}, True),
        ({"decoding": {"max_new_tokens": 5}}, {}, False),
        ({"llm": {"dtype": "float32"}}, {}, False),
        ({}, {"adapter": "other"}, False),
        ({}, {"base_model": "other"}, False),
        ({}, {"baseline": "of low-rank weights"}, False),
    ],
)
def test_shared_key_is_of_the_model(config, inputs, is_same):
    one, other = (
        Identity(kind="explanations", config={**CONFIG, **settings}, inputs={**INPUTS, **made_from})
        for settings, made_from in (({}, {}), (config, inputs))
    )
    assert (shared_key(other) == shared_key(one)) is is_same


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
        row |= {"explanation": text, "kind": kind, "aspects": aspects}
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

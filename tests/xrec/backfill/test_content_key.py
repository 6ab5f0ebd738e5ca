"""The content key changes with all that the explanation depends on, and with nothing else."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from xrec.adapter.pairs import Pair, PairPrompts
from xrec.backfill.identity import content_key, shared_key, sources_of
from xrec.bulk import Identity
from xrec.config.llm import EngineConfig
from xrec.data.evidence import AspectEvidence
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer

CONFIG = {"decoding": {"max_new_tokens": 4}, "dtype": "auto", "pairs": {}}
INPUTS = {"base_model": "b", "adapter": "a", "dataset": "d", "graph": "g"}


@pytest.fixture
def explainer(runs):
    return load_explainer(sources_of(runs.config()), device="cpu", engine=EngineConfig())


def _with_text(explainer: Explainer, table: str, column: str, row: int) -> Explainer:
    rows = getattr(explainer.dataset, table)
    texts = rows[column].to_pylist()
    texts[row] += " And more."
    place = rows.schema.get_field_index(column)
    changed = {table: rows.set_column(place, rows.schema.field(place), [texts])}
    dataset = replace(explainer.dataset, **changed)
    pairs = PairPrompts(dataset, explainer.pairs.builder)
    return Explainer(explainer.model, explainer.engine, pairs, dataset, explainer.graph, "x")


def _with_vector(explainer: Explainer, side: str, row: int) -> Explainer:
    vectors = getattr(explainer.graph, side).clone()
    vectors[row, 0] += 1e-6
    assert not torch.equal(vectors, getattr(explainer.graph, side))
    graph = replace(explainer.graph, **{side: vectors})
    return Explainer(
        explainer.model, explainer.engine, explainer.pairs, explainer.dataset, graph, "x"
    )


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
    def changed(other: Explainer) -> set[tuple[int, int]]:
        """Return the pairs of 3 users and 3 items whose key changed."""
        pairs = [(user, item) for user in range(3) for item in range(3)]
        return {
            pair for pair in pairs if key_of(explainer, "s", *pair) != key_of(other, "s", *pair)
        }

    of_user, of_item = {(1, item) for item in range(3)}, {(user, 2) for user in range(3)}
    assert changed(explainer) == set()
    assert changed(_with_text(explainer, "users", "profile", 1)) == of_user
    assert changed(_with_vector(explainer, "users", 1)) == of_user
    assert changed(_with_text(explainer, "items", "title", 2)) == of_item
    assert changed(_with_text(explainer, "items", "profile", 2)) == of_item
    assert changed(_with_vector(explainer, "items", 2)) == of_item


def test_content_key_of_each_pair_is_its_own(explainer):
    pairs = [(user, item) for user in range(3) for item in range(3)]
    assert len({key_of(explainer, shared, *pair) for shared in "st" for pair in pairs}) == 18


@pytest.mark.parametrize(
    ("config", "inputs", "is_same"),
    [
        ({}, {"dataset": "e", "graph": "h"}, True),
        ({"pairs": {"kind": "split"}}, {}, True),
        ({"decoding": {"max_new_tokens": 5}}, {}, False),
        ({"dtype": "float32"}, {}, False),
        ({}, {"adapter": "other"}, False),
        ({}, {"base_model": "other"}, False),
    ],
)
def test_shared_key_is_of_the_model(config, inputs, is_same):
    one, other = (
        Identity(kind="explanations", config={**CONFIG, **settings}, inputs={**INPUTS, **made_from})
        for settings, made_from in (({}, {}), (config, inputs))
    )
    assert (shared_key(other) == shared_key(one)) is is_same

"""Turns each pair into an explanation or into a failed row with a typed reason.

No pair is lost, and a pair that fails does not stop the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.adapter.pairs import Pair
from xrec.backfill.identity import content_key
from xrec.config.decoding import DecodingConfig
from xrec.data.dataset import Dataset
from xrec.errors import UnknownIdError
from xrec.generate.explainer import Explainer
from xrec.llm.prompt import PairTexts, PromptTooLongError
from xrec.schemas import FAILED, GENERATED, PAIRS

_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


@dataclass(frozen=True)
class KnownPair:
    """A pair of the dataset; `ids` are its row of the schema PAIRS."""

    ids: dict[str, str]
    user_index: int
    item_index: int


@dataclass(frozen=True)
class FailedPair:
    """A pair without a text, and why; `ids` are its row of the schema PAIRS."""

    ids: dict[str, str]
    reason: str
    message: str


def explain_pairs(
    explainer: Explainer, pairs: pa.Table, decoding: DecodingConfig, shared_key: str
) -> tuple[pa.Table, pa.Table]:
    """Explain `pairs` (schema PAIRS); the engine's errors are raised.

    Returns a table of explanations (schema GENERATED) and one of failed rows (FAILED), both sorted
    by user and item. `shared_key` is the run's part of the content keys.
    """
    rows: list[dict[str, Any]] = []
    accepted: list[_Accepted] = []
    known, failed = look_up(explainer.dataset, pairs)
    for found, pair, said in _with_texts(explainer, known):
        try:
            accepted.append(_Accepted(found, pair, said, explainer.pairs.prompt(pair, said)))
        except PromptTooLongError as error:
            failed.append(FailedPair(found.ids, "prompt_too_long", str(error)))
    prompts, texts = [one.prompt for one in accepted], [one.texts for one in accepted]
    for explanation in explainer.explain(prompts, texts, decoding):
        one = accepted[explanation.index]
        if (failure := explanation.failure) is not None:
            failed.append(FailedPair(one.found.ids, failure.reason, failure.message))
            continue
        rows.append(
            {
                **one.found.ids,
                "explanation": explanation.text,
                "num_prompt_tokens": explanation.num_prompt_tokens,
                "num_generated_tokens": explanation.num_generated_tokens,
                "finish_reason": explanation.finish_reason,
                "model_fingerprint": explainer.model_fingerprint,
                "content_key": content_key(explainer, shared_key, one.pair, one.texts),
                "aspects": [
                    vars(each) for each in explainer.checker.evidence(explanation.text, one.texts)
                ],
                "kind": explanation.kind,
                "refused": explanation.refused,
            }
        )
    generated = pa.Table.from_pylist(rows, GENERATED)
    not_explained = failed_rows(explainer.dataset, failed)
    return generated.sort_by(_BY_PAIR), not_explained.sort_by(_BY_PAIR)


def content_keys(explainer: Explainer, pairs: pa.Table, shared_key: str) -> pa.Array:
    """Return the content keys of N `pairs` (schema PAIRS), null where user or item is unknown."""
    known, _ = look_up(explainer.dataset, pairs)
    keys = {
        tuple(found.ids.values()): content_key(explainer, shared_key, pair, texts)
        for found, pair, texts in _with_texts(explainer, known)
    }
    ids = zip(*(pairs[name].to_pylist() for name in PAIRS.names), strict=True)
    return pa.array([keys.get(each) for each in ids], pa.string())


def name_no_other_item(explainer: Explainer, rows: pa.Table) -> pa.Array:
    """Return for N explanations (schema GENERATED) of known pairs N booleans.

    False means that the text names another item of the catalogue, so it would be refused today.
    """
    known, _ = look_up(explainer.dataset, rows.select(PAIRS.names))
    said = [texts for _, _, texts in _with_texts(explainer, known)]
    return pa.array(
        [
            explainer.finisher.other_title(text, texts) is None
            for text, texts in zip(rows["explanation"].to_pylist(), said, strict=True)
        ],
        pa.bool_(),
    )


@dataclass(frozen=True)
class _Accepted:
    """A pair that has a prompt."""

    found: KnownPair
    pair: Pair
    texts: PairTexts
    prompt: list[int]


def _with_texts(
    explainer: Explainer, known: Sequence[KnownPair]
) -> list[tuple[KnownPair, Pair, PairTexts]]:
    """The pairs with what may be said of them."""
    pairs = [Pair(each.user_index, each.item_index) for each in known]
    return list(zip(known, pairs, explainer.pairs.texts_of(pairs), strict=True))


def look_up(dataset: Dataset, pairs: pa.Table) -> tuple[list[KnownPair], list[FailedPair]]:
    """The pairs (schema PAIRS) that `dataset` knows, and the others; each in their order."""
    known: list[KnownPair] = []
    failed: list[FailedPair] = []
    for ids in pairs.cast(PAIRS).to_pylist():
        found = _look_up(dataset, ids)
        if isinstance(found, KnownPair):
            known.append(found)
        else:
            failed.append(found)
    return known, failed


def failed_rows(dataset: Dataset, failed: Sequence[FailedPair]) -> pa.Table:
    """Rows of the schema FAILED, with the texts of the users and items that `dataset` knows."""
    return pa.Table.from_pylist(
        [
            {
                **each.ids,
                "reason": each.reason,
                "message": each.message,
                **_texts(dataset, each.ids),
            }
            for each in failed
        ],
        FAILED,
    )


def _look_up(dataset: Dataset, ids: dict[str, str]) -> KnownPair | FailedPair:
    try:
        user_index = dataset.user_index(ids["user_id"])
    except UnknownIdError as error:
        return FailedPair(ids, "unknown_user", str(error))
    try:
        return KnownPair(ids, user_index, dataset.item_index(ids["item_id"]))
    except UnknownIdError as error:
        return FailedPair(ids, "unknown_item", str(error))


def _texts(dataset: Dataset, ids: dict[str, str]) -> dict[str, str]:
    user = dataset.user_indices.get(ids["user_id"])
    item = dataset.item_indices.get(ids["item_id"])
    users, items = dataset.users, dataset.items
    return {
        "user_profile": "" if user is None else users["profile"][user].as_py(),
        "item_title": "" if item is None else items["title"][item].as_py(),
        "item_profile": "" if item is None else items["profile"][item].as_py(),
    }

"""Turns each pair into an explanation or into a failed row with a typed reason.

No pair is lost, and a pair that fails does not stop the others.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.adapter.pairs import Pair
from xrec.backfill.content_key import content_key
from xrec.config.llm import DecodingConfig
from xrec.errors import UnknownIdError
from xrec.generate.explainer import Explainer
from xrec.llm.prompt import PairTexts, PromptTooLongError
from xrec.schemas import FAILED, GENERATED, PAIRS

_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


def explain_pairs(
    explainer: Explainer, pairs: pa.Table, decoding: DecodingConfig, shared_key: str
) -> tuple[pa.Table, pa.Table]:
    """Explain `pairs` (schema PAIRS); the engine's errors are raised.

    Returns a table of explanations (schema GENERATED) and one of failed rows (FAILED), both sorted
    by user and item. `shared_key` is the run's part of the content keys.
    """
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    accepted: list[_Accepted] = []
    for ids, pair, said in _known(explainer, pairs, failures):
        try:
            accepted.append(_Accepted(ids, pair, said, explainer.pairs.prompt(pair, said)))
        except PromptTooLongError as error:
            failures.append({**ids, "reason": "prompt_too_long", "message": str(error)})
    prompts, texts = [one.prompt for one in accepted], [one.texts for one in accepted]
    for explanation in explainer.explain(prompts, texts, decoding):
        one = accepted[explanation.index]
        ids = one.ids
        if (failure := explanation.failure) is not None:
            failures.append({**ids, "reason": failure.reason, "message": failure.message})
            continue
        rows.append(
            {
                **ids,
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
    return generated.sort_by(_BY_PAIR), failed_rows(explainer, failures).sort_by(_BY_PAIR)


def content_keys(explainer: Explainer, pairs: pa.Table, shared_key: str) -> pa.Array:
    """Return the content keys of N `pairs` (schema PAIRS), null where user or item is unknown."""
    keys = {
        (ids["user_id"], ids["item_id"]): content_key(explainer, shared_key, pair, texts)
        for ids, pair, texts in _known(explainer, pairs, [])
    }
    return pa.array(
        [keys.get((ids["user_id"], ids["item_id"])) for ids in pairs.to_pylist()], pa.string()
    )


def name_no_other_item(explainer: Explainer, rows: pa.Table) -> pa.Array:
    """Return for N explanations (schema GENERATED) of known pairs N booleans.

    False means that the text names another item of the catalogue, so it would be refused today.
    """
    texts = [texts for _, _, texts in _known(explainer, rows.select(PAIRS.names), [])]
    return pa.array(
        [
            explainer.finisher.other_title(text, said) is None
            for text, said in zip(rows["explanation"].to_pylist(), texts, strict=True)
        ],
        pa.bool_(),
    )


def failed_rows(explainer: Explainer, failures: list[dict[str, str]]) -> pa.Table:
    """Return rows of the schema FAILED: `failures` (ids, reason, message) with the pair's texts."""
    return pa.Table.from_pylist(
        [{**failure, **_texts(explainer, failure)} for failure in failures], FAILED
    )


def _texts(explainer: Explainer, ids: dict[str, str]) -> dict[str, str]:
    """Return the pair's texts, "" for those of an unknown user or item."""
    user_index = explainer.dataset.user_indices.get(ids["user_id"])
    item_index = explainer.dataset.item_indices.get(ids["item_id"])
    texts = explainer.pairs.texts(Pair(user_index or 0, item_index or 0))
    return {
        "user_profile": "" if user_index is None else texts.user_profile,
        "item_title": "" if item_index is None else texts.item_title,
        "item_profile": "" if item_index is None else texts.item_profile,
    }


@dataclass(frozen=True)
class _Accepted:
    """A pair that has a prompt."""

    ids: dict[str, str]
    pair: Pair
    texts: PairTexts
    prompt: list[int]


def _known(
    explainer: Explainer, pairs: pa.Table, failures: list[dict[str, str]]
) -> list[tuple[dict[str, str], Pair, PairTexts]]:
    """The pairs whose user and item are known, with their texts; others go to `failures`."""
    found: list[tuple[dict[str, str], Pair]] = []
    for ids in pairs.to_pylist():
        try:
            found.append((ids, _pair(explainer, ids)))
        except _RowError as error:
            failures.append({**ids, "reason": error.reason, "message": str(error)})
    texts = explainer.pairs.texts_of([pair for _, pair in found])
    return [(ids, pair, said) for (ids, pair), said in zip(found, texts, strict=True)]


class _RowError(Exception):
    """A pair cannot be explained; it becomes a failed row, and the job goes on."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def _pair(explainer: Explainer, ids: dict[str, str]) -> Pair:
    try:
        user_index = explainer.dataset.user_index(ids["user_id"])
    except UnknownIdError as error:
        raise _RowError("unknown_user", str(error)) from error
    try:
        return Pair(user_index, explainer.dataset.item_index(ids["item_id"]))
    except UnknownIdError as error:
        raise _RowError("unknown_item", str(error)) from error

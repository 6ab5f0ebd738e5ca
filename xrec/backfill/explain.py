"""Pairs in, rows out: an explanation, or a failed row with a typed reason; no pair is lost and none stops the others."""

from typing import Any

import pyarrow as pa

from xrec.adapter.pairs import Pair
from xrec.backfill.attempts import Explained
from xrec.backfill.content_key import content_key
from xrec.config.llm import DecodingConfig
from xrec.errors import UnknownIdError
from xrec.generate.explainer import Explainer
from xrec.llm.prompt import PromptTooLongError
from xrec.schemas import FAILED, GENERATED

# What torch, transformers and vLLM raise for a batch that they cannot do, memory that is not there included.
_ENGINE_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)
_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


def explain_or_fail(
    explainer: Explainer, pairs: pa.Table, decoding: DecodingConfig, shared_key: str
) -> Explained:
    """`explain_pairs`; where the engine raises, pairs are halved until the one is found that it cannot do: an `engine_error`."""
    try:
        return Explained(*explain_pairs(explainer, pairs, decoding, shared_key))
    except _ENGINE_ERRORS as error:
        if pairs.num_rows == 1:
            message = f"{type(error).__name__}: {error}"
            return Explained(
                GENERATED.empty_table(),
                failed_rows(
                    explainer,
                    [
                        {**row, "reason": "engine_error", "message": message}
                        for row in pairs.to_pylist()
                    ],
                ),
            )
    middle = pairs.num_rows // 2
    halves = [
        explain_or_fail(explainer, part, decoding, shared_key)
        for part in (pairs.slice(0, middle), pairs.slice(middle))
    ]
    return Explained(
        pa.concat_tables([half.generated for half in halves]),
        pa.concat_tables([half.failed for half in halves]),
    )


def explain_pairs(
    explainer: Explainer, pairs: pa.Table, decoding: DecodingConfig, shared_key: str
) -> tuple[pa.Table, pa.Table]:
    """Explain `pairs` (schema PAIRS): a table of explanations (GENERATED) and one of failed rows (FAILED), by user and item.

    `shared_key` is what the content keys of the run have in common.
    """
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    accepted: list[tuple[dict[str, str], Pair]] = []
    prompts: list[list[int]] = []
    for ids in pairs.to_pylist():
        try:
            pair = _pair(explainer, ids)
            prompts.append(_prompt(explainer, pair))
            accepted.append((ids, pair))
        except _RowError as error:
            failures.append({**ids, "reason": error.reason, "message": str(error)})
    for explanation in explainer.explain(prompts, decoding):
        ids, pair = accepted[explanation.index]
        if explanation.failure is not None:
            failures.append(
                {
                    **ids,
                    "reason": explanation.failure.reason,
                    "message": explanation.failure.message,
                }
            )
            continue
        rows.append(
            {
                **ids,
                "explanation": explanation.text,
                "num_prompt_tokens": explanation.num_prompt_tokens,
                "num_generated_tokens": explanation.num_generated_tokens,
                "finish_reason": explanation.finish_reason,
                "model_fingerprint": explainer.model_fingerprint,
                "content_key": content_key(explainer, shared_key, pair),
            }
        )
    return pa.Table.from_pylist(rows, GENERATED).sort_by(_BY_PAIR), failed_rows(
        explainer, failures
    ).sort_by(_BY_PAIR)


def content_keys(explainer: Explainer, pairs: pa.Table, shared_key: str) -> pa.Array:
    """The content key of each of N `pairs` (schema PAIRS); null for an unknown user or item."""
    keys: list[str | None] = []
    for ids in pairs.to_pylist():
        try:
            keys.append(content_key(explainer, shared_key, _pair(explainer, ids)))
        except _RowError:
            keys.append(None)
    return pa.array(keys, pa.string())


def failed_rows(explainer: Explainer, failures: list[dict[str, str]]) -> pa.Table:
    """Rows of the schema FAILED: ids, reason and message, with the texts of those that are known."""
    return pa.Table.from_pylist(
        [{**failure, **_texts(explainer, failure)} for failure in failures], FAILED
    )


def _texts(explainer: Explainer, ids: dict[str, str]) -> dict[str, str]:
    """What is known of the pair's texts; "" for an unknown user or item."""
    user_index = explainer.dataset.user_indices.get(ids["user_id"])
    item_index = explainer.dataset.item_indices.get(ids["item_id"])
    texts = explainer.pairs.texts(Pair(user_index or 0, item_index or 0))
    return {
        "user_profile": "" if user_index is None else texts.user_profile,
        "item_title": "" if item_index is None else texts.item_title,
        "item_profile": "" if item_index is None else texts.item_profile,
    }


class _RowError(Exception):
    """A row that cannot be explained; the job goes on."""

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


def _prompt(explainer: Explainer, pair: Pair) -> list[int]:
    try:
        return explainer.pairs.prompt(pair)
    except PromptTooLongError as error:
        raise _RowError("prompt_too_long", str(error)) from error

"""Turn each pair into an explanation or into a failed row with a typed reason.

No pair is lost, and a pair that fails does not stop the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from xrec.adapter.pairs import Pair, PairPrompts
from xrec.backfill.identity import changed_parts, content_key, sentence_key
from xrec.bulk import FAILED as FAILED_ROW
from xrec.config import DecodingConfig, TextConfig, placeholder_names
from xrec.data import Dataset, pair_fraction
from xrec.errors import Failure, UnknownIdError
from xrec.generate.explainer import Explainer
from xrec.generate.text_rules import TextFinisher
from xrec.llm.prompt import PairTexts, PromptTooLongError
from xrec.neighbors.sentences import people_evidence
from xrec.schemas import FAILED, GENERATED, PAIRS, SUPPORT

_LOOKED_UP = [*PAIRS.names, *SUPPORT.names]
_UNWRITTEN: dict[str, Any] = {
    **dict.fromkeys(("num_prompt_tokens", "num_generated_tokens"), 0),
    "finish_reason": "stop",
    "model_fingerprint": "",
    "aspects": [],
    "refused": "",
}
"""Columns of a sentence that no language model wrote."""
_PLAIN = " plain"
"""What the shared key of a pair ends with if the language model is not asked for its text."""
_UNASKED = Failure("abstained", "texts_per_user leaves this pair to a plain sentence")
_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


@dataclass(frozen=True)
class FailedPair:
    """A pair without a text, and the reason; `ids` is its row, in the PAIRS schema.

    content_key: the pair's content key if a text was generated for it, otherwise empty.
    """

    ids: dict[str, str]
    reason: str
    message: str
    content_key: str = ""


def explain_pairs(
    explainer: Explainer,
    pairs: pa.Table,
    decoding: DecodingConfig,
    shared_key: str,
    texts_per_user: float | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Explain `pairs` (schemas PAIRS and GIVEN), and raise the engine's errors.

    Returns a table of explanations (schema GENERATED) and one of failed rows (FAILED), both sorted
    by user and item. `shared_key` is the part of the content keys that all pairs of the run share.
    """
    rows: list[dict[str, Any]] = []
    known, failed = _look_up(explainer.dataset, explainer.pairs, pairs, decoding.text)
    unwritten = _unwritten(pairs, texts_per_user)
    accepted: list[_KnownPair] = []
    prompts: list[list[int]] = []
    for one in known:
        if (one.ids["user_id"], one.ids["item_id"]) in unwritten:
            key = content_key(explainer, f"{shared_key}{_PLAIN}", one.pair, one.texts)
            text, failure = explainer.finisher.fallback(one.texts, decoding.text, _UNASKED)
            if failure is None:
                evidence = explainer.checker.evidence(text, one.texts)
                about = {"explanation": text, "content_key": key, "kind": "plain"}
                rows.append({**one.ids, **_UNWRITTEN, **about, "aspects": [*map(vars, evidence)]})
            else:
                failed.append(FailedPair(one.ids, failure.reason, failure.message, key))
            continue
        try:
            prompts.append(explainer.pairs.prompt(one.pair, one.texts))
            accepted.append(one)
        except PromptTooLongError as error:
            failed.append(FailedPair(one.ids, "prompt_too_long", str(error)))
    for explanation in explainer.explain(prompts, [one.texts for one in accepted], decoding):
        one = accepted[explanation.index]
        key = content_key(explainer, shared_key, one.pair, one.texts)
        if (failure := explanation.failure) is not None:
            failed.append(FailedPair(one.ids, failure.reason, failure.message, key))
            continue
        rows.append(
            {
                **one.ids,
                "explanation": explanation.text,
                "num_prompt_tokens": explanation.num_prompt_tokens,
                "num_generated_tokens": explanation.num_generated_tokens,
                "finish_reason": explanation.finish_reason,
                "model_fingerprint": explainer.model_fingerprint,
                "content_key": key,
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


def say_pairs(
    dataset: Dataset, pairs: pa.Table, rules: TextConfig, shared_key: str
) -> tuple[pa.Table, pa.Table]:
    """Return what `explain_pairs` returns, but only sentences about what people did."""
    rows: list[dict[str, Any]] = []
    known, failed = _known_and_failed(dataset, pairs)
    for row, _ in known:
        people = people_evidence(dataset, row, rules.people)
        key = sentence_key(shared_key, people)
        if people is None:
            message = "nothing that people did supports it"
            failed.append(FailedPair(_ids(row), "abstained", message, key))
        else:
            about = {"explanation": people.sentence, "content_key": key, "kind": "plain"}
            rows.append({**_ids(row), **_UNWRITTEN, **about})
    generated = pa.Table.from_pylist(rows, GENERATED)
    return generated.sort_by(_BY_PAIR), failed_rows(dataset, failed).sort_by(_BY_PAIR)


def _unwritten(pairs: pa.Table, texts_per_user: float | None) -> set[tuple[str, str]]:
    """Return the pairs whose text the language model does not write."""
    if texts_per_user is None:
        return set()
    columns = (pairs[name].to_pylist() for name in (*PAIRS.names, "rank"))
    return {
        (user, item)
        for user, item, rank in zip(*columns, strict=True)
        if pair_fraction(user, item, seed=0) >= texts_per_user - ((rank or 1) - 1)
    }


def why_again(
    explainer: Explainer,
    earlier: pa.Table,
    rules: TextConfig,
    shared_key: str,
    texts_per_user: float | None = None,
) -> pa.Array:
    """Return why each of the N rows of a table must be generated again, as N strings.

    Null if a row can be carried over: its content key is the current one, and its text names no
    other item of the catalog and nothing that the user complains of, which would be refused now.
    Otherwise the parts of the key that changed, `unknown` if the dataset lost the pair,
    `names_another_item`, `complained`, or `failed` for a row without a text, unless there was
    nothing to say about the pair (`abstained`). If neither prompt nor text mentions evidence, its
    counts may have changed if the text still passes `rules`.
    """
    known, _ = _look_up(explainer.dataset, explainer.pairs, earlier.select(_LOOKED_UP), rules)
    today = {tuple(one.ids.values()): one for one in known}
    unwritten = _unwritten(earlier, texts_per_user)
    prompt = explainer.pairs.builder.prompt
    shows_evidence = rules.is_backed or bool(
        prompt.people or {*placeholder_names(prompt.aspect)} - {"aspect"}
    )

    def why(row: dict[str, Any]) -> str | None:
        one = today.get((row["user_id"], row["item_id"]))
        if one is None:
            return "unknown"
        if row["status"] == FAILED_ROW and row["reason"] != "abstained":
            return "failed"
        is_plain = (row["user_id"], row["item_id"]) in unwritten
        shared = f"{shared_key}{_PLAIN if is_plain else ''}"
        key = content_key(explainer, shared, one.pair, one.texts)
        changed = changed_parts(row["content_key"], key) if key != row["content_key"] else ()
        if row["status"] == FAILED_ROW:
            return " + ".join(changed) or None
        quoted = [each["opinion"] for each in row["aspects"]]
        is_hidden = changed == ("evidence",) and not shows_evidence and row["kind"] == "written"
        is_hidden &= quoted == [each.opinion for each in one.texts.aspects]
        if is_hidden and explainer.finisher.unfit(row["explanation"], one.texts, rules) is None:
            return None
        if changed:
            return " + ".join(changed)
        if explainer.finisher.other_title(row["explanation"], one.texts) is not None:
            return "names_another_item"
        is_blamed = rules.checks.complained and explainer.checker.complaint(
            row["explanation"], one.texts
        )
        return "complained" if is_blamed else None

    rows = earlier.select(
        [*PAIRS.names, "status", "reason", "content_key", "explanation", "kind", "aspects"]
    ).to_pylist()
    return pa.array(map(why, rows), pa.string())


@dataclass(frozen=True)
class _KnownPair:
    """A pair of the dataset, and the texts and aspects that its explanation may use."""

    ids: dict[str, str]
    pair: Pair
    texts: PairTexts


def refused_today(
    dataset: Dataset,
    prompts: PairPrompts,
    finisher: TextFinisher,
    rows: pa.Table,
    rules: TextConfig,
) -> list[FailedPair]:
    """Return which explanations (schema GENERATED) may no longer be shown, and why.

    Users and items that are no longer in the dataset are left out.
    """
    known, _ = _look_up(dataset, prompts, rows.select(_LOOKED_UP), rules)
    texts: dict[tuple[str, ...], str] = {
        (row["user_id"], row["item_id"]): row["explanation"]
        for row in rows.select([*PAIRS.names, "explanation"]).to_pylist()
    }
    each = ((one, texts[tuple(one.ids.values())]) for one in known)
    found = ((one, finisher.unfit(text, one.texts, rules)) for one, text in each)
    return [FailedPair(one.ids, why.reason, why.message) for one, why in found if why]


def _look_up(
    dataset: Dataset, prompts: PairPrompts, pairs: pa.Table, rules: TextConfig
) -> tuple[list[_KnownPair], list[FailedPair]]:
    """Split `pairs` (columns `_LOOKED_UP`) into those that the dataset knows and the others."""
    known, failed = _known_and_failed(dataset, pairs)
    texts = prompts.texts_of([pair for _, pair in known])
    people = (people_evidence(dataset, row, rules.people) for row, _ in known)
    return [
        _KnownPair(_ids(row), pair, replace(own, people=evidence))
        for (row, pair), own, evidence in zip(known, texts, people, strict=True)
    ], failed


def _known_and_failed(
    dataset: Dataset, pairs: pa.Table
) -> tuple[list[tuple[dict[str, Any], Pair]], list[FailedPair]]:
    """Return the rows that the dataset knows, with their indices, and the others, in order."""
    known: list[tuple[dict[str, Any], Pair]] = []
    failed: list[FailedPair] = []
    for row in pairs.select(_LOOKED_UP).to_pylist():
        try:
            pair = Pair(dataset.user_index(row["user_id"]), dataset.item_index(row["item_id"]))
            known.append((row, pair))
        except UnknownIdError as error:
            failed.append(FailedPair(_ids(row), error.reason, str(error)))
    return known, failed


def _ids(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: row[name] for name in PAIRS.names}


def failed_by(dataset: Dataset, pairs: pa.Table, reason: str, message: str) -> pa.Table:
    """Return all `pairs` as failed rows (schema FAILED)."""
    rows = pairs.select(PAIRS.names).to_pylist()
    return failed_rows(dataset, [FailedPair(ids, reason, message) for ids in rows])


def failed_rows(dataset: Dataset, failed: Sequence[FailedPair]) -> pa.Table:
    """Return rows (schema FAILED), with the texts of the users and items that `dataset` knows."""
    users, items = dataset.users, dataset.items
    rows: list[dict[str, str]] = []
    for each in failed:
        user = dataset.user_ids.find(each.ids["user_id"])
        item = dataset.item_ids.find(each.ids["item_id"])
        texts = {
            "user_profile": "" if user is None else users["profile"][user].as_py(),
            "item_title": "" if item is None else items["title"][item].as_py(),
            "item_profile": "" if item is None else items["profile"][item].as_py(),
        }
        rows.append({**vars(each), **each.ids, **texts})
    return pa.Table.from_pylist(rows, FAILED)

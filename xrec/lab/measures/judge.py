"""Language models as judges: GPTScore, a number from 0 to 100 for a text given its reference.

A judge that does not reply with such a number is asked once more (xrec.text). After that the pair
has no score, and the failure is counted by its reason. An empty text gets 0 without a question.

Two judges can differ by tens of points and still rank texts alike, so their agreement is measured
by Spearman's correlation over pairs.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, SecretStr, model_validator

from xrec.config import (
    Device,
    EndpointModelConfig,
    JobConfig,
    LanguageModelConfig,
    MetricsConfig,
    SamplingConfig,
    StorageConfig,
)
from xrec.data import Dataset, HeldOutPair
from xrec.evaluate.claims import check_claims, claims_question, known_texts
from xrec.evaluate.measure import Floats, Measure, Metric, Score, has_text
from xrec.storage import fingerprint_of
from xrec.text import (
    Asker,
    LanguageModel,
    Prompt,
    PromptFile,
    Reply,
    endpoint_key,
    load_language_model,
    make_asker,
    model_identity,
    parse_prompt_file,
)

logger = logging.getLogger("xrec")

CLAIMS = "claims"
"""The name of the judge of claims."""
_LEAST = 3  # pairs for a correlation


class ScoreReply(BaseModel):
    """What a judge is to answer: a score from 0 to 100. Further fields are ignored."""

    # The docstring is part of the schema that the model sees, and of the keys of stored replies.

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _accept_a_number(cls, value: Any) -> Any:
        values = {"score": value} if isinstance(value, int | float) else value
        if isinstance(values, dict) and isinstance(values.get("score"), bool):
            raise ValueError("expected a number, got true or false")
        return values


@dataclass(frozen=True)
class JudgeAccess:
    """What judges need besides their config; it can be sent to an actor.

    job: whose workspace keeps the replies. device, num_threads: of an engine. keys: of endpoints,
    by the judge's name (`judge_keys`).
    """

    job: JobConfig
    device: Device = "auto"
    num_threads: int = 1
    keys: Mapping[str, SecretStr | None] = field(default_factory=dict)


def judge_keys(
    config: MetricsConfig, environment: Mapping[str, str]
) -> dict[str, SecretStr | None]:
    """Return the key of each judge that is an endpoint; raise ConfigError if one is not set."""
    return {
        name: endpoint_key(model, environment)
        for name, model in {**config.judges, CLAIMS: config.claims}.items()
        if isinstance(model, EndpointModelConfig)
    }


def judge_measures(
    config: MetricsConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    access: JudgeAccess | None,
) -> list[Measure]:
    """Return a measure per judge, and that of claims; judges with the same model share it.

    access: needed to load them. Loading raises ModelError if a model is not available.
    """
    loaded: dict[str, LanguageModel] = {}

    def asker(name: str, model: LanguageModelConfig) -> Asker:
        assert access is not None
        settings = model.model_dump_json(exclude=set(SamplingConfig.model_fields))
        if settings not in loaded:
            loaded[settings] = load_language_model(
                model,
                job=access.job,
                device=access.device,
                num_threads=access.num_threads,
                key=access.keys.get(name),
            )
        run = access.job.artifact("comparison")
        return make_asker(access.job, model, loaded[settings], run=run)

    def score(name: str, model: LanguageModelConfig) -> Measure:
        references = [(pair.user_id, pair.reference) for pair in pairs]
        title, column = f"GPTScore by {name}", f"gptscore_{name}"
        metrics = (
            Metric(column, f"{title}, 0 to 100", 1),
            Metric(f"{column}_failed", f"{title}, share of failed replies", 4, "lower", True),
        )

        def load() -> Score:
            return partial(gpt_scores, name, asker(name, model), references)

        return Measure(metrics, load)

    measures = [score(name, model) for name, model in config.judges.items()]
    if (judge := config.claims) is not None:

        def load_claims() -> Score:
            evidence = [
                (pair.user_id, known_texts(dataset, pair.user_index, pair.item_index))
                for pair in pairs
            ]
            return partial(claim_shares, asker(CLAIMS, judge), evidence)

        measures.append(Measure(_CLAIM_METRICS, load_claims))
    return measures


_CLAIM_METRICS = (
    Metric("claims_supported", "Claims supported, share"),
    Metric("claims_made", "Claims, mean", 1, ""),
    Metric("claims_failed", "Claims, share of failed replies", 4, "lower", True),
)


def claim_shares(
    asker: Asker, evidence: Sequence[tuple[str, Sequence[str]]], texts: Sequence[str]
) -> list[Floats]:
    """Return the share of supported claims of each text, their number, and failed replies.

    evidence: of each text, its user and what is known. The share is NaN for a text without claims,
    and both are NaN for a failed reply.
    """
    columns = np.array([[np.nan], [0.0], [0.0]]).repeat(len(texts), axis=1)
    indices = np.flatnonzero(has_text(texts))
    found = check_claims(asker, [texts[i] for i in indices], [evidence[i] for i in indices])
    for index, claims in zip(indices, found, strict=True):
        if claims is None:
            columns[:, index] = np.nan, np.nan, 1
        else:
            share = np.nan if claims.share is None else claims.share
            columns[:2, index] = share, claims.num_claims
    return list(columns)


def gpt_scores(
    name: str, asker: Asker, references: Sequence[tuple[str, str]], texts: Sequence[str]
) -> list[Floats]:
    """Return the score of each text, NaN if the judge failed, and whether it failed.

    references: of each text, its user and the reference. Raises what `Asker.ask` raises: errors
    that are not the fault of a single reply.
    """
    question, scores = judge_question(), np.zeros(len(texts))
    indices = np.flatnonzero(has_text(texts))
    prompts = []
    for index in indices:
        user_id, reference = references[index]
        data = {"prediction": texts[index], "reference": reference}
        messages = question.messages(data, None, {})
        prompts.append(Prompt(messages, ScoreReply, user_ids=(user_id,)))
    replies = asker.ask(prompts)
    _log_costs(name, replies)
    scores[indices] = [np.nan if reply.value is None else reply.value.score for reply in replies]
    return [scores, np.isnan(scores).astype(np.float64)]


def _log_costs(name: str, replies: Sequence[Reply[ScoreReply]]) -> None:
    failed = Counter(reply.failure.reason for reply in replies if reply.failure is not None)
    logger.info(
        "judge %s: %d requests, %d tokens of prompts and %d of replies; failed: %s",
        name,
        sum(reply.usage.num_requests for reply in replies),
        sum(reply.usage.num_prompt_tokens for reply in replies),
        sum(reply.usage.num_reply_tokens for reply in replies),
        ", ".join(f"{count} {reason}" for reason, count in failed.items()) or "none",
    )


def judge_identity(name: str, model: LanguageModelConfig, storage: StorageConfig) -> dict[str, Any]:
    """Return what a judge's scores depend on, as plain JSON."""
    question = claims_question() if name == CLAIMS else judge_question()
    return {
        "name": name,
        "question": fingerprint_of([question.system, dict(question.examples)]),
        "model": model_identity(model, storage),
    }


def judge_question() -> PromptFile:
    """Return the article's prompt, with the score as a JSON object."""
    text = (resources.files(__package__) / "score.txt").read_text("utf-8")
    return parse_prompt_file("score.txt", text)


def agreement_lines(entry: str, scores: pa.Table, judges: Sequence[str]) -> list[str]:
    """Return a sentence on each two judges of an entry's texts.

    scores: a scorer's table. Pairs without a text, and pairs for which a judge failed, are left
    out. There is no sentence if fewer than three pairs are left, or a judge scores all the same.
    """
    from scipy.stats import spearmanr  # slow to import, and `xrec status` does not need it

    is_written = has_text(scores["text"].to_pylist())
    values = {name: scores[f"gptscore_{name}"].to_numpy().astype(np.float64) for name in judges}
    lines = []
    for first, second in combinations(judges, 2):
        both = is_written & np.isfinite(values[first]) & np.isfinite(values[second])
        ours, theirs = values[first][both], values[second][both]
        if len(ours) < _LEAST or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            continue
        lines.append(
            f"Judges {first} and {second} rank the texts of `{entry}` alike by "
            f"{float(spearmanr(ours, theirs).statistic):.2f}, Spearman's correlation over "
            f"{len(ours):,} pairs; their means differ by {float(ours.mean() - theirs.mean()):+.1f}."
        )
    return lines

"""A language model as a judge: GPTScore, a number from 0 to 100 for a text beside its reference.

A reply that is no such number is asked for once more (xrec.text), then it has failed: it is counted
with its reason, and the pair has no score. An empty text has 0 without a question.

Two judges may differ by tens of points and still rank texts alike. So what tells how far they agree
is Spearman's correlation over pairs.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from xrec.config import (
    Device,
    EndpointModelConfig,
    LanguageModelConfig,
    SamplingConfig,
    StorageConfig,
)
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts
from xrec.storage import Location, fingerprint_of
from xrec.text import (
    Asker,
    LanguageModel,
    Prompt,
    PromptFile,
    Reply,
    endpoint_key,
    load_language_model,
    model_identity,
    parse_prompt_file,
)

logger = logging.getLogger("xrec")

_LEAST = 3  # pairs of which a correlation is told


class ScoreReply(BaseModel):
    """What a judge is to answer: a score from 0 to 100. Further fields are ignored."""

    # The docstring is part of the schema that the model sees, and of the keys of stored replies.

    model_config = ConfigDict(extra="ignore")

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _accept_a_number(cls, value: Any) -> Any:
        values = {"score": value} if isinstance(value, int | float) else value
        if isinstance(values, dict) and isinstance(values.get("score"), bool):
            raise ValueError("expected a number, got true or false")
        return values


class Judge:
    """Scores pairs by asking."""

    def __init__(self, name: str, question: PromptFile, asker: Asker) -> None:
        self.name = name
        self._question, self._asker = question, asker

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure; an empty text has 0, and a pair at which the judge failed has NaN.

        Raises what `Asker.ask` raises: errors that are no single reply's fault.
        """
        scores = np.zeros(len(texts))
        places = np.flatnonzero(texts.has_text)
        replies = self._asker.ask(
            [self._prompt(texts.texts[place], texts.pairs[place].reference) for place in places]
        )
        self._tell_costs(replies)
        scores[places] = [np.nan if reply.value is None else reply.value.score for reply in replies]
        column = f"gptscore_{self.name}"
        return {column: scores, f"{column}_failed": np.isnan(scores).astype(np.float64)}

    def _prompt(self, text: str, reference: str) -> Prompt[ScoreReply]:
        """How well does the text say what the reference says?"""
        shown = next(iter(self._question.examples), None)
        data = {"prediction": text, "reference": reference}
        return Prompt(self._question.messages(data, shown, {}), ScoreReply)

    def _tell_costs(self, replies: Sequence[Reply[ScoreReply]]) -> None:
        failed = Counter(each.failure.reason for each in replies if each.failure is not None)
        logger.info(
            "judge %s: %d requests, %d tokens of prompts and %d of replies; failed: %s",
            self.name,
            sum(each.usage.num_requests for each in replies),
            sum(each.usage.num_prompt_tokens for each in replies),
            sum(each.usage.num_reply_tokens for each in replies),
            ", ".join(f"{count} {reason}" for reason, count in failed.items()) or "none",
        )


@dataclass(frozen=True)
class JudgeAccess:
    """What judges need beside their config; it may be sent to an actor.

    replies: the folder that keeps what was answered, so that nothing is asked, and paid, twice.
    device, num_threads: of an engine. keys: of endpoints, by the judge's name (`judge_keys`).
    """

    replies: Location
    storage: StorageConfig = field(default_factory=StorageConfig)
    device: Device = "auto"
    num_threads: int = 1
    keys: Mapping[str, SecretStr | None] = field(default_factory=dict)


def judge_keys(
    judges: Mapping[str, LanguageModelConfig], environment: Mapping[str, str]
) -> dict[str, SecretStr | None]:
    """The key of each judge that is an endpoint; raises ConfigError for one that is not set."""
    return {
        name: endpoint_key(model, environment)
        for name, model in judges.items()
        if isinstance(model, EndpointModelConfig)
    }


def load_judge(
    name: str,
    model: LanguageModelConfig,
    access: JudgeAccess,
    loaded: dict[str, LanguageModel] | None = None,
) -> Judge:
    """The judge of this name, with its model in this process.

    loaded: the models of other judges, of which one is taken if it is the same; this one's is
    added.

    Raises ModelError if the model cannot be had.
    """
    models = {} if loaded is None else loaded
    settings = model.model_dump_json(exclude=set(SamplingConfig.model_fields))
    if settings not in models:
        models[settings] = load_language_model(
            model,
            storage=access.storage,
            device=access.device,
            num_threads=access.num_threads,
            key=access.keys.get(name),
        )
    asker = Asker(
        models[settings],
        model.sampling,
        access.replies,
        identity=model_identity(model, access.storage),
    )
    return Judge(name, judge_question(), asker)


def describe_judge(name: str) -> list[MetricInfo]:
    """What the table says of the judge's metrics."""
    score, title = f"gptscore_{name}", f"GPTScore by {name}"
    return [
        MetricInfo(score, f"{title}, 0 to 100", 1),
        MetricInfo(f"{score}_failed", f"{title}, share of failed replies", 4),
    ]


def judge_identity(name: str, model: LanguageModelConfig, storage: StorageConfig) -> dict[str, Any]:
    """Return what a judge's scores depend on, as plain JSON."""
    question = judge_question()
    return {
        "name": name,
        "question": fingerprint_of([question.system, dict(question.examples)]),
        "model": model_identity(model, storage),
    }


def judge_question() -> PromptFile:
    """What a judge is asked: the article's prompt, with the score as a JSON object."""
    text = (resources.files(__package__) / "score.txt").read_text("utf-8")
    return parse_prompt_file("score.txt", text)


def agreement_lines(entry: str, scores: pa.Table, judges: Sequence[str]) -> list[str]:
    """A sentence on each two judges of an entry's texts.

    scores: as `score_table` gives them. Pairs without a text, which no judge has seen, and
    pairs at which a judge failed are left out. There is no sentence where fewer than three pairs
    are left, or a judge says the same of all.
    """
    from scipy.stats import spearmanr  # slow to import, and a status needs it not

    has_text = np.array([bool(text) for text in scores["text"].to_pylist()], dtype=np.bool_)
    values = {name: scores[f"gptscore_{name}"].to_numpy().astype(np.float64) for name in judges}
    lines = []
    for first, second in combinations(judges, 2):
        both = has_text & np.isfinite(values[first]) & np.isfinite(values[second])
        ours, theirs = values[first][both], values[second][both]
        if len(ours) < _LEAST or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            continue
        lines.append(
            f"Judges {first} and {second} rank the texts of `{entry}` alike by "
            f"{float(spearmanr(ours, theirs).statistic):.2f}, Spearman's correlation over "
            f"{len(ours):,} pairs; their means differ by {float(ours.mean() - theirs.mean()):+.1f}."
        )
    return lines

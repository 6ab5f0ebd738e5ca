"""A language model as a judge: GPTScore, a number from 0 to 100 for a text beside its reference.

A reply that is no such number is asked for once more (xrec.text), then it has failed: it is counted
with its reason, and the pair's score is the mean of its other samples. An empty text has 0 without
a question.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo
from xrec.text import Asker, Prompt, Reply
from xrec.text.prompt_file import PromptFile

logger = logging.getLogger("xrec")


class ScoreReply(BaseModel):
    """What a judge is to answer: a score from 0 to 100. Further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_bare_number(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"score": value} if is_number else value

    @field_validator("score", mode="before")
    @classmethod
    def _is_no_yes(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number, saw a yes or no")
        return value


def judge_infos(name: str, model: str, num_samples: int) -> list[MetricInfo]:
    """What the table says of a judge; `model` is its model's name."""
    score = f"gptscore_{name}"
    infos = [
        MetricInfo(
            score,
            f"GPTScore by {name}, 0 to 100",
            "higher",
            f"What {model} gives the text beside its reference. Judges differ by tens of points: "
            "compare contestants by one judge, never figures of two.",
            1,
        ),
        MetricInfo(
            f"{score}_failed",
            f"GPTScore by {name}, failed replies a pair",
            None,
            f"Of {num_samples}. They are left out of the score.",
            4,
        ),
    ]
    if num_samples > 1:
        infos.append(
            MetricInfo(
                f"{score}_sample_std",
                f"GPTScore by {name}, spread of samples",
                None,
                f"Standard deviation of {num_samples} samples of the same pair; mean of pairs.",
                1,
            )
        )
    return infos


class Judge:
    """Scores pairs by asking; `askers` are one a sample, each with another seed."""

    def __init__(self, name: str, question: PromptFile, askers: Sequence[Asker]) -> None:
        self.name = name
        self._question, self._askers = question, askers

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure; a pair all of whose samples failed has NaN.

        Raises what `Asker.ask` raises: errors that are no single reply's fault.
        """
        for asker in self._askers:
            asker.count_anew()
        samples = np.stack([self._sample(texts, asker) for asker in self._askers])  # (n, N)
        there = np.isfinite(samples)
        column = f"gptscore_{self.name}"
        found = {
            column: _mean(samples, there),
            f"{column}_failed": (~there).sum(axis=0).astype(np.float64),
        }
        if len(self._askers) > 1:
            found[f"{column}_sample_std"] = _spread(samples, there)
        return found

    def _sample(self, texts: ContestantTexts, asker: Asker) -> Floats:
        """(N,) scores, 0 for empty texts and NaN where the judge failed."""
        scores = np.zeros(len(texts))
        places = np.flatnonzero(texts.has_text)
        replies = asker.ask(
            [self._prompt(texts.texts[place], texts.pairs[place].reference) for place in places]
        )
        self._tell_costs(replies)
        scores[places] = [np.nan if reply.value is None else reply.value.score for reply in replies]
        return scores

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


def _mean(samples: Floats, there: np.ndarray) -> Floats:
    """(N,) mean of the samples (n, N) that are there."""
    means = np.full(samples.shape[1], np.nan)
    sums = np.where(there, samples, 0).sum(axis=0)
    np.divide(sums, there.sum(axis=0), out=means, where=there.any(axis=0))
    return means


def _spread(samples: Floats, there: np.ndarray) -> Floats:
    """(N,) standard deviation of the samples (n, N) that are there; NaN for fewer than two."""
    counts = there.sum(axis=0)
    squares = np.where(there, (samples - _mean(samples, there)) ** 2, 0).sum(axis=0)
    spread = np.full(samples.shape[1], np.nan)
    np.divide(squares, counts - 1, out=spread, where=counts > 1)
    return np.asarray(np.sqrt(spread))

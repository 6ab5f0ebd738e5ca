"""A language model as a judge: GPTScore, and statements that the other text supports.

GPTScore is the article's: a number from 0 to 100 for a text beside its reference. A reply that is
no such number is asked for once more (xrec.text), then it has failed: it is counted with its
reason, and the pair's score is the mean of its other samples. An empty text has 0 without a
question.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xrec.lab.judge.questions import Questions
from xrec.lab.judge.statements import StatementJudge
from xrec.lab.judge.tally import Tally
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo
from xrec.text import Asker


def judge_infos(name: str, model: str, num_samples: int, has_statements: bool) -> list[MetricInfo]:
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
        )
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
    infos.append(_failed_info(score, f"GPTScore by {name}", num_samples))
    if has_statements:
        infos += _statement_infos(name, model)
    return infos


def _failed_info(column: str, label: str, most: int) -> MetricInfo:
    return MetricInfo(
        f"{column}_failed",
        f"{label}, failed replies a pair",
        None,
        f"Of {most}. They are left out of the score.",
        4,
    )


def _statement_infos(name: str, model: str) -> list[MetricInfo]:
    column, label = f"statements_{name}", f"by {name}"
    return [
        MetricInfo(
            f"{column}_precision",
            f"Statements, precision {label}",
            "higher",
            f"Share of the text's statements that the reference supports, as {model} sees it.",
        ),
        MetricInfo(
            f"{column}_recall",
            f"Statements, recall {label}",
            "higher",
            "Share of the reference's statements that the text supports.",
        ),
        MetricInfo(
            f"{column}_f1", f"Statements, F1 {label}", "higher", "Of the two, pair by pair."
        ),
        _failed_info(column, f"Statements {label}", 4),
    ]


class Judge:
    """Scores pairs by asking; `askers` are one a sample, each with another seed."""

    def __init__(
        self,
        name: str,
        questions: Questions,
        askers: Sequence[Asker],
        *,
        has_statements: bool,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._questions, self._askers = questions, askers
        self._statements = (
            StatementJudge(questions, askers[0], self.tally) if has_statements else None
        )

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
        if self._statements is not None:
            figures = self._statements.of_pairs(texts)
            found |= {f"statements_{self.name}_{name}": each for name, each in figures.items()}
        return found

    def _sample(self, texts: ContestantTexts, asker: Asker) -> Floats:
        """(N,) scores, 0 for empty texts and NaN where the judge failed."""
        scores = np.zeros(len(texts))
        places = np.flatnonzero(texts.has_text)
        replies = asker.ask(
            [
                self._questions.score(texts.texts[place], texts.pairs[place].reference)
                for place in places
            ]
        )
        self.tally.add(replies)
        scores[places] = [np.nan if reply.value is None else reply.value.score for reply in replies]
        return scores


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

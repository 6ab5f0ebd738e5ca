"""Precision and recall of statements: what of the text the reference supports, and the reverse.

A judge takes text and reference apart into statements, then says of each whether the other one
supports it. precision = supported statements of the text over all of them; recall = the same of the
reference; F1 their harmonic mean. The public follower of the article computes the two the other way
round.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xrec.lab.judge.questions import Questions
from xrec.lab.judge.tally import Tally
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats
from xrec.text import Asker

Statements = list[str]


class StatementJudge:
    """Asks for statements, then for their support; equal questions are asked once."""

    def __init__(self, questions: Questions, asker: Asker, tally: Tally) -> None:
        self._questions, self._asker, self._tally = questions, asker, tally

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """(N,) precision, recall, f1, and failed: how many of up to four questions failed.

        An empty text, or one that states nothing, has 0. NaN is where a question failed, and, of
        recall and F1 of any text, where the reference states nothing.
        """
        there = np.flatnonzero(texts.has_text).tolist()
        of_references = self._taken_apart(texts.references)
        of_texts: list[Statements | None] = [[] for _ in range(len(texts))]
        for place, found in zip(
            there, self._taken_apart([texts.texts[place] for place in there]), strict=True
        ):
            of_texts[place] = found
        precision, precision_failed = self._shares(of_texts, texts.references, if_none=0.0)
        asked = [
            found if has_text or not found else None
            for found, has_text in zip(of_references, texts.has_text, strict=True)
        ]
        recall, recall_failed = self._shares(asked, texts.texts, if_none=np.nan)
        is_stated = np.array([bool(found) for found in of_references])
        recall[is_stated & ~texts.has_text] = 0.0
        total = precision + recall
        f1 = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), total)
        failed = precision_failed + recall_failed
        for of_ones in (of_texts, of_references):
            failed += np.array([found is None for found in of_ones], dtype=np.float64)
        return {"precision": precision, "recall": recall, "f1": f1, "failed": failed}

    def _taken_apart(self, texts: Sequence[str]) -> list[Statements | None]:
        """The statements of each text, None where the judge failed."""
        replies = self._asker.ask([self._questions.statements(text) for text in texts])
        self._tally.add(replies)
        return [
            None
            if reply.value is None
            else [said.strip() for said in reply.value.statements if said.strip()]
            for reply in replies
        ]

    def _shares(
        self, statements: Sequence[Statements | None], texts: Sequence[str], *, if_none: float
    ) -> tuple[Floats, Floats]:
        """The share of statements that each text supports, (M,), and which questions failed.

        if_none: the share where nothing is stated.
        """
        shares, failed = np.full(len(statements), np.nan), np.zeros(len(statements))
        asked = [place for place, of_one in enumerate(statements) if of_one]
        replies = self._asker.ask(
            [self._questions.support(statements[place] or [], texts[place]) for place in asked]
        )
        self._tally.add(replies)
        for place, of_one in enumerate(statements):
            if of_one == []:
                shares[place] = if_none
        for place, reply in zip(asked, replies, strict=True):
            if reply.value is None:
                failed[place] = 1
            else:
                shares[place] = np.mean(reply.value.supported)
        return shares, failed

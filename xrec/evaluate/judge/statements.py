"""Precision and recall of statements: what of the text the reference supports, and the reverse.

A judge takes text and reference apart into statements, then says of each whether the other one
supports it. precision = supported statements of the text over all of them; recall = the same of the
reference; F1 their harmonic mean. The public follower of the article computes the two the other way
round.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xrec.evaluate.contestant_texts import ContestantTexts
from xrec.evaluate.judge.questions import Questions
from xrec.evaluate.judge.tally import Tally
from xrec.evaluate.measure import Floats
from xrec.text import Asker

Statements = list[str]


class StatementJudge:
    """Asks for statements, then for their support; equal questions are asked once."""

    def __init__(self, questions: Questions, asker: Asker, tally: Tally) -> None:
        self._questions, self._asker, self._tally = questions, asker, tally

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """(N,) precision, recall, f1, and failed: how many of up to four questions failed.

        An empty text, or one that states nothing, has 0. NaN is where a question failed, or the
        reference states nothing.
        """
        places = np.flatnonzero(texts.has_text).tolist()
        of_texts = self._taken_apart([texts.texts[place] for place in places])
        of_references = self._taken_apart([texts.references[place] for place in places])
        precision, precision_failed = self._shares(
            of_texts, [texts.references[place] for place in places], if_none=0.0
        )
        recall, recall_failed = self._shares(
            of_references, [texts.texts[place] for place in places], if_none=np.nan
        )
        total = precision + recall
        f1 = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), total)
        failed = precision_failed + recall_failed
        failed += np.array([each is None for each in of_texts], dtype=np.float64)
        failed += np.array([each is None for each in of_references], dtype=np.float64)
        columns = {"precision": precision, "recall": recall, "f1": f1, "failed": failed}
        return {name: _spread_out(values, places, len(texts)) for name, values in columns.items()}

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


def _spread_out(values: Floats, places: Sequence[int], number: int) -> Floats:
    """(N,) with the values at their places, and 0 for the pairs without a text."""
    found = np.zeros(number)
    found[list(places)] = values
    return found

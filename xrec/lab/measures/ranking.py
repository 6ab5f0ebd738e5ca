"""Rankings of statements: StaR's ranking at item level (Kabongo et al., arXiv 2604.03724).

Candidates are the statements in the item's training reviews. Those that the pair's own review makes
are relevant. A text ranks its statements in their order; other rankers need no text.
docs/metrics.md lists the differences from the article.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xrec.aspects import AspectChooser
from xrec.data import HeldOutPair
from xrec.evaluate.measure import Floats, Metric
from xrec.lab.measures.statements import (
    SENTIMENTS,
    K,
    Statement,
    Statements,
    against_reference,
    by_pair,
)

Score = Callable[[HeldOutPair], Callable[[Statement], Any]]
"""Returns the key by which a pair's candidates are sorted, the largest first."""


RANKING_METRICS = (
    Metric("ranking_ndcg", f"Statements ranked, NDCG@{K}"),
    Metric("ranking_recall", f"Statements ranked, recall@{K}"),
    Metric("ranking_precision", f"Statements ranked, precision@{K}"),
)


class StatementsRanked:
    """NDCG, recall and precision at 10 of the order by `score`, or by texts if there is none.

    Statements that are not candidates are left out. Precision is over ten places, filled or not.
    """

    def __init__(self, statements: Statements, score: Score | None = None) -> None:
        self._statements, self._score = statements, score

    def order(self, pair: HeldOutPair, text: str) -> Sequence[Statement]:
        """Return the statements of the pair, the best first."""
        if self._score is None:
            return self._statements.of_text(text)
        candidates = self._statements.of_items[pair.item_index]
        return sorted(candidates, key=self._score(pair), reverse=True)

    def columns(self, pairs: Sequence[HeldOutPair], texts: Sequence[str]) -> list[Floats]:
        """Return a column (N,) per metric; NaN where no candidate is relevant."""
        return by_pair(pairs, texts, self._of_pair)

    def _of_pair(self, pair: HeldOutPair, text: str) -> tuple[float, float, float]:
        candidates = self._statements.of_items[pair.item_index]
        wanted = {*self._statements.of_reference(pair)}
        first = [each for each in self.order(pair, text) if each in candidates][:K]
        precision, recall, ndcg = against_reference(first, wanted & candidates.keys())
        return ndcg, recall, precision * len(first) / K


def rankers(statements: Statements, chooser: AspectChooser) -> dict[str, StatementsRanked]:
    """Return the rankers that need no text, by name (`xrec.config.RANKERS`).

    Popularity is the number of training reviews of the item, of the user, or of all that make the
    statement; ties go by all. These are StaR's ItemPop, UserPop and GlobalPop.
    """
    of_items, of_users, of_all = statements.of_items, statements.of_users, statements.of_all
    scores: dict[str, Score] = {
        "item_popularity": lambda pair: (
            lambda made: (of_items[pair.item_index][made], of_all[made])
        ),
        "user_popularity": lambda pair: (
            lambda made: (of_users[pair.user_index][made], of_all[made])
        ),
        "global_popularity": lambda pair: of_all.__getitem__,
        "random": _drawn,
        "chooser": _chooser_score(statements, chooser),
    }
    return {name: StatementsRanked(statements, score) for name, score in scores.items()}


def _drawn(pair: HeldOutPair) -> Callable[[Statement], float]:
    chance = random.Random(f"{pair.user_id} {pair.item_id}")
    return lambda statement: chance.random()


def _chooser_score(statements: Statements, chooser: AspectChooser) -> Score:
    """Score the aspect, plus ln of the share of the item's opinions on it that agree."""
    places = {name: place for place, name in reversed(list(enumerate(statements.names)))}

    def score(pair: HeldOutPair) -> Callable[[Statement], float]:
        counts = statements.of_items[pair.item_index]
        aspects = list({made.aspect for made in counts})
        scores = chooser.scores(
            pair.user_index, pair.item_index, np.array([places[each] for each in aspects])
        )
        of_aspects = dict(zip(aspects, scores.tolist(), strict=True))

        def of(made: Statement) -> float:
            num_opinions = sum(counts[Statement(made.aspect, each)] for each in SENTIMENTS)
            return float(of_aspects[made.aspect] + np.log(counts[made] / num_opinions))

        return of

    return score

"""How far judges agree about the same texts: rank correlation, pair by pair.

Two judges may differ by tens of points and still rank texts alike. So what is compared is
Spearman's correlation over pairs.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
from scipy.stats import spearmanr

_LEAST = 3


def agreement_lines(entry: str, scores: pa.Table, judges: Sequence[str]) -> list[str]:
    """A sentence on each two judges of an entry's texts.

    scores: as `Measures.of_pairs` gives them. Pairs without a text, which no judge has seen, and
    pairs at which a judge failed are left out. There is no sentence where fewer than three pairs
    are left, or a judge says the same of all.
    """
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

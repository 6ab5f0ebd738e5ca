"""How far judges agree about the same texts: rank correlation, pair by pair.

Two judges may differ by tens of points and still rank texts alike. So what is compared is
Spearman's correlation over pairs, with an interval by resampling users.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from xrec.lab.statistics.rank_correlation import rank_correlation


def agreement_lines(
    contestant: str, scores: pa.Table, judges: Sequence[str], *, num_samples: int, seed: int
) -> list[str]:
    """A sentence on each two judges of a contestant's texts.

    scores: as `Measures.of_pairs` gives them. Pairs without a text, which no judge has seen, and
    pairs at which a judge failed are left out. There is no sentence where fewer than three pairs
    are left, or a judge says the same of all.
    """
    users, texts = (
        np.array(scores[name].to_pylist(), dtype=object) for name in ("user_id", "text")
    )
    has_text = np.array([bool(text) for text in texts], dtype=np.bool_)
    values = {name: scores[f"gptscore_{name}"].to_numpy().astype(np.float64) for name in judges}
    lines = []
    for first, second in combinations(judges, 2):
        both = has_text & np.isfinite(values[first]) & np.isfinite(values[second])
        ours, theirs = values[first][both], values[second][both]
        found = rank_correlation(
            ours, theirs, users[both].tolist(), num_samples=num_samples, seed=seed
        )
        if found is not None:
            lines.append(
                f"Judges {first} and {second} rank the texts of `{contestant}` alike by "
                f"{found.text(2)}, Spearman's correlation over {int(both.sum()):,} pairs; their "
                f"means differ by {float(ours.mean() - theirs.mean()):+.1f}."
            )
    return lines

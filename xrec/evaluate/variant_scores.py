"""Each variant's scores of the same held-out pairs, kept so that a run goes on by variant."""

from collections.abc import Mapping, Sequence
from typing import Any

from xrec.evaluate.scores import (
    SCORED_PAIRS,
    ScoredPair,
    scored_pairs_from_table,
    scored_pairs_table,
)
from xrec.storage import Location, Manifest, read_manifest, read_table, write_manifest, write_table

_PAIRS = "pairs.parquet"


def write_scores(
    location: Location,
    scores: Sequence[ScoredPair],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write one variant's scores."""
    table = scored_pairs_table(scores)
    files = {_PAIRS: write_table(location / _PAIRS, table, SCORED_PAIRS)}
    return write_manifest(
        location,
        "scores",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"pairs": len(scores)},
    )


def read_scores(location: Location) -> list[ScoredPair]:
    """What `write_scores` wrote; raises ArtifactNotFoundError."""
    read_manifest(location, "scores")
    return scored_pairs_from_table(read_table(location / _PAIRS, SCORED_PAIRS))


def of_the_same_pairs(
    scores: Mapping[str, Sequence[ScoredPair]],
) -> dict[str, list[ScoredPair]]:
    """Each variant's scores of the pairs that all variants have, in the first one's order.

    A variant lacks the pairs whose prompt was too long.
    """
    by_pair = {variant: {score.ids: score for score in rows} for variant, rows in scores.items()}
    shared = [
        score.ids
        for score in next(iter(scores.values()))
        if all(score.ids in rows for rows in by_pair.values())
    ]
    return {variant: [rows[pair] for pair in shared] for variant, rows in by_pair.items()}

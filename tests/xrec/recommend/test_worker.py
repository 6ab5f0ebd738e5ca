"""Ranges of users, ranked in this process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from xrec.recommend import RankingTables, read_tables
from xrec.recommend.worker import Ranker
from xrec.schemas import RECOMMENDATIONS


def _tables(**values: Any) -> RankingTables:
    """Two users, two items; u1 has seen both."""
    defaults: dict[str, Any] = {
        "user_vectors": np.array([[1, 0], [0, 1]], np.float32),
        "item_vectors": np.array([[1, 5], [2, 4]], np.float32),
        "train_edges": np.array([[1, 1], [0, 1]]),
        "order": np.array([0, 1]),
        "user_ids": pa.array(["u0", "u1"]),
        "item_ids": pa.array(["i0", "i1"]),
    }
    return RankingTables(**{**defaults, **values})


def test_ranker_user_who_has_seen_everything_has_no_rows() -> None:
    table = Ranker(_tables()).recommend(0, 2, k=2)
    assert table.schema.equals(RECOMMENDATIONS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("u0", "i1", 1, 2.0),
        ("u0", "i0", 2, 1.0),
    ]
    assert Ranker(_tables()).recommend(1, 2, k=2).equals(RECOMMENDATIONS.empty_table())


def test_ranker_ranges_together_are_the_whole(make_config: Callable[..., Any]) -> None:
    ranker = Ranker(read_tables(make_config()))
    whole = ranker.recommend(0, 23, k=3)
    parts = pa.concat_tables(ranker.recommend(start, start + 6, k=3) for start in range(0, 23, 6))
    assert parts.drop(["score"]).equals(whole.drop(["score"]))
    assert parts["score"].to_pylist() == pytest.approx(whole["score"].to_pylist(), abs=1e-6)


def test_ranker_takes_read_only_arrays_as_ray_hands_them_out(
    recwarn: pytest.WarningsRecorder,
) -> None:
    tables = _tables()
    for array in (tables.user_vectors, tables.item_vectors, tables.train_edges, tables.order):
        array.setflags(write=False)
    assert Ranker(tables).recommend(0, 1, k=1).to_pylist() == [
        {"user_id": "u0", "item_id": "i1", "rank": 1, "score": 2.0}
    ]
    assert [str(warning.message) for warning in recwarn if "writable" in str(warning.message)] == []

"""Users that are ranked in this process."""

import numpy as np
import pyarrow as pa

from xrec.recommend import RankingTables
from xrec.recommend.task import ROWS, RankingTask


def _tables() -> RankingTables:
    """Two users, two items; u1 has seen both."""
    return RankingTables(
        user_vectors=np.array([[1, 0], [0, 1]], np.float32),
        item_vectors=np.array([[1, 5], [2, 4]], np.float32),
        train_edges=np.array([[1, 1], [0, 1]]),
        user_ids=pa.array(["u0", "u1"]),
        item_ids=pa.array(["i0", "i1"]),
    )


def _users(*user_ids: str) -> pa.Table:
    return pa.table({"user_id": user_ids}).cast(ROWS.key_schema)


def test_task_user_who_has_seen_everything_is_a_failed_row() -> None:
    outcome = RankingTask(_tables(), k=2).do(_users("u1", "u0"))
    assert [tuple(row.values()) for row in outcome.ok.to_pylist()] == [
        ("u0", "i1", 1, 2.0),
        ("u0", "i0", 2, 1.0),
    ]
    assert outcome.failed.to_pylist() == [
        {"user_id": "u1", "reason": "all_items_seen", "message": "the user has seen every item"}
    ]
    alone = RankingTask(_tables(), k=2).do(_users("u1"))
    assert (alone.ok.num_rows, alone.failed.num_rows) == (0, 1)

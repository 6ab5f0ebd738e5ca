"""A dataset of a few users and items in memory, and held-out pairs of it."""

from collections.abc import Sequence

import pyarrow as pa

from xrec.data.dataset import Dataset, HeldOutPair
from xrec.schemas import EXPLANATIONS, INTERACTIONS, ITEMS, USERS
from xrec.storage import Manifest


def explained(rows: Sequence[tuple[int, int, str]], split: str = "train") -> pa.Table:
    """Explanations (user_index, item_index, text) of a split."""
    return pa.Table.from_pylist(
        [
            {"user_index": user, "item_index": item, "explanation": text, "split": split}
            for user, item, text in rows
        ],
        EXPLANATIONS,
    )


def dataset_of(
    profiles: Sequence[str] = ("", "", ""),
    explanations: pa.Table | None = None,
    num_users: int = 3,
) -> Dataset:
    """Users u0, u1, ... and items i0, i1, ... with these profiles."""
    users = [
        {"user_id": f"u{index}", "user_index": index, "profile": f"Likes {index}."}
        for index in range(num_users)
    ]
    items = [
        {"item_id": f"i{index}", "item_index": index, "title": f"Place {index}", "profile": text}
        for index, text in enumerate(profiles)
    ]
    return Dataset(
        Manifest.model_construct(fingerprint="f"),
        pa.Table.from_pylist(users, USERS),
        pa.Table.from_pylist(items, ITEMS),
        pa.Table.from_pylist([], INTERACTIONS),
        explained([]) if explanations is None else explanations,
    )


def held_out(*pairs: tuple[int, int]) -> list[HeldOutPair]:
    """Pairs by index, each with a reference of its own."""
    return [
        HeldOutPair(f"u{user}", f"i{item}", user, item, f"Reference of {user} and {item}.")
        for user, item in pairs
    ]

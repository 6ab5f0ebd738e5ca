"""The pairs with a reference, and what contestants wrote for them.

A contestant's texts are a backfill's explanations, or a file of JSON lines such as
/data/yelp/peer_texts.jsonl#xrec, where the word after # is the column of the texts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xrec.backfill import read
from xrec.config.shared import Split
from xrec.data import Dataset
from xrec.errors import DataError

Indices = NDArray[np.int64]
Texts = tuple[str | None, ...]
"""A text of each pair, (N,); None where there is none."""
_IDS = (("user_id", "item_id"), ("uid", "iid"))


@dataclass(frozen=True, eq=False)
class Pairs:
    """N explained pairs of a dataset: ids, references, and what is known of their items, each (N,).

    `descriptions` are the items' titles and profiles, `titles` their titles.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    references: tuple[str, ...]
    descriptions: tuple[str, ...]
    titles: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, splits: Sequence[Split]) -> "Pairs":
        """Return the explained pairs of the splits; raises DataError for fewer than two."""
        rows = [row for split in splits for row in dataset.explained_pairs(split).to_pylist()]
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} explained pairs in {', '.join(splits)}; expected two or more"
            )
        users, items = dataset.users.to_pylist(), dataset.items.to_pylist()
        described = [items[row["item_index"]] for row in rows]
        return cls(
            tuple(users[row["user_index"]]["user_id"] for row in rows),
            tuple(item["item_id"] for item in described),
            tuple(row["explanation"] for row in rows),
            tuple(f"{item['title']}. {item['profile']}" for item in described),
            tuple(item["title"] for item in described),
        )

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def other(self) -> NDArray[np.bool_]:
        """Where column m is another pair than row n, (N, N)."""
        return ~np.eye(len(self), dtype=np.bool_)

    @cached_property
    def other_of_item(self) -> NDArray[np.bool_]:
        """Where column m is another pair of the same item as row n, (N, N)."""
        numbers = np.unique(np.array(self.items), return_inverse=True)[1]
        found: NDArray[np.bool_] = (numbers[:, None] == numbers) & self.other
        return found

    @cached_property
    def couples(self) -> Indices:
        """All two pairs of one item, (C, 2); each is there once."""
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            rows.setdefault(item, []).append(row)
        found = [couple for of_item in rows.values() for couple in combinations(of_item, 2)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)


def read_texts(source: str, pairs: Pairs) -> Texts:
    """The texts of the pairs at `source`, a URI of explanations or FILE.jsonl#COLUMN.

    Raises DataError if none of the pairs has a text there, or a line lacks an id or the column.
    """
    path, _, column = source.partition("#")
    rows = _json_lines(Path(path), column) if path.endswith(".jsonl") else _explanations(source)
    texts = {(user, item): text for user, item, text in rows}
    found = tuple(texts.get(ids) for ids in zip(pairs.users, pairs.items, strict=True))
    if not any(text is not None for text in found):
        raise DataError(
            f"{source}: {len(texts)} texts, of none of the {len(pairs)} explained pairs; give "
            "texts of this dataset and of these splits"
        )
    return found


def _explanations(uri: str) -> Iterator[tuple[str, str, str]]:
    for row in read(uri).to_table(columns=["user_id", "item_id", "explanation"]).to_pylist():
        yield row["user_id"], row["item_id"], row["explanation"]


def _json_lines(path: Path, column: str) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, lines), start=1):
            ids = next((names for names in _IDS if all(name in row for name in names)), None)
            name = column or "text"
            if ids is None or name not in row:
                raise DataError(
                    f"{path}, line {number}: columns {', '.join(row)}; expected user_id and "
                    f"item_id, or uid and iid, and {name} (name another one by FILE.jsonl#COLUMN)"
                )
            if row[name] is not None:
                yield str(row[ids[0]]), str(row[ids[1]]), row[name]

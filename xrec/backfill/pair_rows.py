"""Rows of pairs of ids: those that the dataset knows, and failed rows of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from xrec.data.dataset import Dataset
from xrec.errors import UnknownIdError
from xrec.schemas import FAILED, PAIRS


@dataclass(frozen=True)
class KnownPair:
    """A pair of the dataset; `ids` are its row of the schema PAIRS."""

    ids: dict[str, str]
    user_index: int
    item_index: int


@dataclass(frozen=True)
class FailedPair:
    """A pair without a text, and why; `ids` are its row of the schema PAIRS."""

    ids: dict[str, str]
    reason: str
    message: str


def look_up(dataset: Dataset, pairs: pa.Table) -> tuple[list[KnownPair], list[FailedPair]]:
    """The pairs (schema PAIRS) that `dataset` knows, and the others; each in their order."""
    known: list[KnownPair] = []
    failed: list[FailedPair] = []
    for ids in pairs.cast(PAIRS).to_pylist():
        found = _look_up(dataset, ids)
        if isinstance(found, KnownPair):
            known.append(found)
        else:
            failed.append(found)
    return known, failed


def failed_rows(dataset: Dataset, failed: Sequence[FailedPair]) -> pa.Table:
    """Rows of the schema FAILED, with the texts of the users and items that `dataset` knows."""
    return pa.Table.from_pylist(
        [
            {
                **each.ids,
                "reason": each.reason,
                "message": each.message,
                **_texts(dataset, each.ids),
            }
            for each in failed
        ],
        FAILED,
    )


def _look_up(dataset: Dataset, ids: dict[str, str]) -> KnownPair | FailedPair:
    try:
        user_index = dataset.user_index(ids["user_id"])
    except UnknownIdError as error:
        return FailedPair(ids, "unknown_user", str(error))
    try:
        return KnownPair(ids, user_index, dataset.item_index(ids["item_id"]))
    except UnknownIdError as error:
        return FailedPair(ids, "unknown_item", str(error))


def _texts(dataset: Dataset, ids: dict[str, str]) -> dict[str, str]:
    user = dataset.user_indices.get(ids["user_id"])
    item = dataset.item_indices.get(ids["item_id"])
    users, items = dataset.users, dataset.items
    return {
        "user_profile": "" if user is None else users["profile"][user].as_py(),
        "item_title": "" if item is None else items["title"][item].as_py(),
        "item_profile": "" if item is None else items["profile"][item].as_py(),
    }

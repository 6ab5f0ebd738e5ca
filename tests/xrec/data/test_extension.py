"""The dataset with new users and items.

Known rows stay in place, each new id has a trained neighbour, and what is left out is counted.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.xrec.data.test_dataset import _write
from xrec import schemas
from xrec.data import Dataset
from xrec.data.cold_start import ColdStartTables
from xrec.data.extension import extend_dataset
from xrec.storage import open_location


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Users ann, bob, anna-lena, items x, y. Train: ann-x, anna-lena-y. Test: ann-y. bob: none."""
    return _write(open_location(str(tmp_path / "dataset")))


def _tables(
    *pairs: str,
    users: tuple[tuple[str, str], ...] = (),
    items: tuple[tuple[str, str, str], ...] = (),
) -> ColdStartTables:
    def table(rows: Iterable[Sequence[str]], *names: str) -> pa.Table:
        return pa.Table.from_pylist(
            [dict(zip(names, row, strict=True)) for row in rows],
            pa.schema([(name, pa.string()) for name in names]),
        )

    interactions = table([pair.split() for pair in pairs], "user_id", "item_id")
    return ColdStartTables(
        interactions,
        table(users, "user_id", "profile"),
        table(items, "item_id", "title", "profile"),
        {},
    )


def test_extend_appends_newcomers_by_id_and_keeps_the_known_rows(dataset: Dataset) -> None:
    tables = _tables(
        "zoe y",
        "eve x",
        "eve y",
        "ann new",
        "anna-lena new",
        users=(("zoe", "Likes tea."),),
        items=(("new", "New Place", "Quiet."),),
    )
    extension = extend_dataset(dataset, tables)
    users, items = extension.dataset.users, extension.dataset.items
    assert users.schema.equals(schemas.USERS)
    assert items.schema.equals(schemas.ITEMS)
    assert users.slice(0, 3).equals(dataset.users)
    assert items.slice(0, 2).equals(dataset.items)
    assert users.slice(3).to_pylist() == [
        {"user_id": "eve", "user_index": 3, "profile": ""},
        {"user_id": "zoe", "user_index": 4, "profile": "Likes tea."},
    ]
    assert items.slice(2).to_pylist() == [
        {"item_id": "new", "item_index": 2, "title": "New Place", "profile": "Quiet."}
    ]
    assert [extension.dataset.user_index(user) for user in ("ann", "eve", "zoe")] == [0, 3, 4]
    assert set(zip(*extension.user_edges.tolist(), strict=True)) == {(0, 0), (0, 1), (1, 1)}
    assert set(zip(*extension.item_edges.tolist(), strict=True)) == {(0, 0), (0, 2)}


def test_extend_new_item_without_a_row_has_no_texts(dataset: Dataset) -> None:
    (row,) = extend_dataset(dataset, _tables("ann new")).dataset.items.slice(2).to_pylist()
    assert row == {"item_id": "new", "item_index": 2, "title": "", "profile": ""}


def test_extend_all_new_interactions_are_train_edges_once(dataset: Dataset) -> None:
    """Also those between two new ids or two known ones, so that nothing seen is recommended.

    The pair ann-y was held out. Interactions that came later have no reviews.
    """
    tables = _tables("ann new", "ann y", "bob y", "eve new", "eve x", "nobody nothing")
    extended = extend_dataset(dataset, tables).dataset
    assert extended.interactions.schema.equals(schemas.INTERACTIONS)
    assert [tuple(row.values()) for row in extended.interactions.to_pylist()] == [
        (0, 0, "train"),
        (0, 1, "train"),
        (0, 2, "train"),
        (1, 1, "train"),
        (2, 1, "train"),
        (3, 0, "train"),
        (3, 2, "train"),
    ]
    for split in ("train", "validation", "test"):
        assert extended.reviewed_edges(split).tolist() == dataset.interaction_edges(split).tolist()


def test_extend_what_gives_no_vector_is_counted_and_stays_unknown(
    dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    tables = _tables(
        "ann x",
        "bob orphan",
        "eve orphan",
        "eve x",
        "lone orphan",
        users=(("silent", "Never came."), ("ann", "Other text.")),
    )
    with caplog.at_level(logging.INFO, logger="xrec"):
        extended = extend_dataset(dataset, tables).dataset
    assert extended.users["user_id"].to_pylist() == ["ann", "bob", "anna-lena", "eve"]
    assert extended.users["profile"].to_pylist() == [
        "Other text.",
        *dataset.users["profile"].to_pylist()[1:],
        "",
    ]
    assert extended.items["item_id"].to_pylist() == ["x", "y"]
    assert [record.getMessage() for record in caplog.records] == [
        "cold start: 1 new users, 0 new items, from 1 interactions",
        "cold start: new texts of 1 known users, 0 known items",
        "cold start: 1 interactions with both sides known: a trained vector stays as it is",
        "cold start: 2 interactions with both sides new: no vector comes from them",
        "cold start: 1 interactions whose known side has none in training",
        "cold start: 2 new users without an interaction with a trained item: they stay unknown",
        "cold start: 1 new items without an interaction with a trained user: they stay unknown",
    ]


def test_extend_by_nothing_is_the_same_dataset(dataset: Dataset) -> None:
    extension = extend_dataset(dataset, _tables())
    assert extension.dataset.users.equals(dataset.users)
    assert extension.dataset.interactions.equals(dataset.interactions)
    assert extension.user_edges.shape == extension.item_edges.shape == (2, 0)


def test_extend_new_texts_of_known_ids_replace_theirs_and_nothing_else(dataset: Dataset) -> None:
    extended = extend_dataset(
        dataset,
        _tables(users=(("bob", "Reads."),), items=(("y", "New Y", ""), ("nowhere", "Z", "z"))),
    ).dataset
    users, items = dataset.users.to_pylist(), dataset.items.to_pylist()
    users[1]["profile"] = "Reads."
    items[1] |= {"title": "New Y", "profile": ""}
    assert extended.users.to_pylist() == users
    assert extended.items.to_pylist() == items
    assert extended.users.schema.equals(schemas.USERS)

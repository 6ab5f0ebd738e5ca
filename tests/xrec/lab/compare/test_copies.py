"""The item's profile, the nearest user's words, and tables of texts from elsewhere."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.world.shop import write_json_lines
from tests.world.town import dataset_of, explained, held_out
from xrec.config.entries import ElsewhereConfig
from xrec.config.shared import StorageConfig
from xrec.errors import DataError, StorageNotFoundError
from xrec.graph.artifact import GraphEmbeddings
from xrec.lab.compare.copies import nearest_texts, profile_texts, read_elsewhere
from xrec.storage import Manifest


def test_profile_is_the_items_profile_and_none_where_it_is_empty():
    dataset = dataset_of(profiles=["A quiet place.", "  ", "Has a garden."])
    found = profile_texts(dataset, held_out((0, 0), (1, 1), (1, 2)))
    assert found == {
        ("u0", "i0"): "A quiet place.",
        ("u1", "i1"): None,
        ("u1", "i2"): "Has a garden.",
    }


def test_nearest_takes_the_nearest_users_words_of_the_item_by_the_cosine():
    # User 0 points to the right. User 1 is long and 60 degrees off; user 2 is short and 10 off.
    sixty, ten = math.radians(60), math.radians(10)
    users = [
        [1.0, 0.0],
        [100 * math.cos(sixty), 100 * math.sin(sixty)],
        [0.01 * math.cos(ten), 0.01 * math.sin(ten)],
    ]
    graph = GraphEmbeddings(torch.tensor(users), torch.eye(2), Manifest.model_construct())
    words = explained([(1, 0, "by the far one"), (2, 0, "by the near one")])
    assert nearest_texts(words, graph, held_out((0, 0))) == {("u0", "i0"): "by the near one"}
    assert nearest_texts(explained([]), graph, held_out((0, 0))) == {("u0", "i0"): None}


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_nearest_of_an_item_without_words_is_of_the_nearest_item(at_once, monkeypatch):
    monkeypatch.setattr("xrec.lab.compare.copies._ITEMS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.randn(6, 4, generator=generator) for _ in range(2))
    words = explained([(0, 4, "four"), (1, 5, "five")])
    graph = GraphEmbeddings(users, items, Manifest.model_construct())
    found = nearest_texts(words, graph, held_out(*((2, item) for item in range(4))))
    unit = items / items.norm(dim=1, keepdim=True)
    for item in range(4):
        closer = "four" if unit[item] @ unit[4] > unit[item] @ unit[5] else "five"
        assert found["u2", f"i{item}"] == closer


ROWS: list[dict[str, Any]] = [
    {"uid": 7, "iid": "a", "xrec": " A fine place. "},
    {"uid": 8, "iid": "b", "xrec": ""},
]


def read(path: Path, **names: str) -> dict[tuple[str, str], str | None]:
    given = {"user_id": "uid", "item_id": "iid", "text": "xrec", **names}
    return read_elsewhere("public", ElsewhereConfig(uri=str(path), **given), StorageConfig())


def test_table_gives_texts_by_pair(tmp_path):
    found = read(write_json_lines(tmp_path / "texts.jsonl", ROWS))
    assert found == {("7", "a"): "A fine place.", ("8", "b"): None}


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({"uid": 7, "iid": "a", "xrec": "again"}, {}, "1 of 3 rows.*line 3.*duplicate"),
        ({"uid": None, "iid": "c", "xrec": "x"}, {}, "1 of 3 rows.*line 3.*must be a string"),
        ({"uid": 9, "iid": "c", "xrec": ["x"]}, {}, "1 of 3 rows.*line 3.*must be a text"),
        ({}, {"text": "says"}, r"missing column\(s\) says.*saw 'uid', 'iid', 'xrec'"),
    ],
)
def test_table_that_cannot_be_used_is_refused_with_file_and_line(tmp_path, row, names, message):
    with pytest.raises(StorageNotFoundError, match=r"nothing.jsonl"):
        read(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match=message):
        read(write_json_lines(tmp_path / "texts.jsonl", [*ROWS, row]), **names)

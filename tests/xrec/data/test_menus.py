"""Menus of items, from the tables of aspects."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.prepare import run as prepare_dataset
from tests.xrec.aspects.planted_aspects import TOWN, with_aspects
from xrec.config.data import PrepareConfig
from xrec.data import Dataset, read_dataset
from xrec.data.menus import Menus
from xrec.schemas import LOW_RATED_ASPECTS
from xrec.storage import open_location


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("menus")
    plain = str(folder / "plain")
    prepare_dataset(PrepareConfig.model_validate({"workspace": plain, "source": TOWN}))
    town = read_dataset(open_location(f"{plain}/dataset"))
    workspace = with_aspects(town, Path(folder), ("train", "test"))
    return read_dataset(open_location(f"{workspace}/dataset"))


def test_menu_of_each_item_has_the_aspects_that_its_training_reviews_do_not_blame(
    dataset: Dataset,
) -> None:
    assert dataset.aspects is not None
    assert dataset.explanation_aspects is not None
    names = dataset.aspects["aspect"].to_pylist()
    said = dataset.explanation_aspects.filter(
        pc.equal(dataset.explanation_aspects["split"], "train")
    ).to_pylist()
    menus, num_blamed = Menus(dataset), 0
    for item in range(dataset.num_items):
        margins: Counter[str] = Counter()
        for row in said:
            if row["item_index"] == item:
                margins[names[row["aspect_index"]]] += 1 if row["sentiment"] == "positive" else -1
        expected = {name for name, margin in margins.items() if margin > 0}
        assert menus.of(item) == expected
        assert menus.num_mentioned(item) == len(margins)
        num_blamed += len(margins) - len(expected)
    assert num_blamed
    assert any(menus.of(item) for item in range(dataset.num_items))


def test_menu_counts_what_low_rated_reviews_praise_and_blame(dataset: Dataset) -> None:
    assert dataset.item_aspects is not None
    counts = dataset.item_aspects.slice(0, 3).to_pylist()
    margins = [row["num_positive"] - row["num_negative"] for row in counts]
    blame = [
        {**row, "num_reviews": margin + 2, "num_positive": 1, "num_negative": margin + 1}
        for row, margin in zip(counts, margins, strict=True)
    ]
    blame[0] |= {"num_negative": 0}  # praised by those too
    blame[1] |= {"num_negative": margins[1]}  # one reader's praise is left
    low_rated = pa.Table.from_pylist(blame, schema=LOW_RATED_ASPECTS)
    changed, names = Menus(replace(dataset, low_rated_aspects=low_rated)), Menus(dataset).names
    on_menu = [names[row["aspect_index"]] in changed.of(row["item_index"]) for row in counts]
    assert min(margins) > 0
    assert on_menu == [True, True, False]


def test_menu_of_an_item_that_came_later_is_empty(dataset: Dataset) -> None:
    assert Menus(dataset).of(dataset.num_items + 3) == frozenset()


def test_menus_of_a_dataset_without_aspects_are_empty(dataset: Dataset) -> None:
    without = Menus(replace(dataset, aspects=None, item_aspects=None))
    assert without.of(0) == frozenset()
    assert without.names == []

"""Aspects as nodes: the edges with their weights, and the counts that they are made of."""

import math

import pyarrow as pa
import pytest
import torch

from xrec import schemas
from xrec.config.graph import AspectNodesConfig
from xrec.data import Dataset
from xrec.errors import DataError
from xrec.graph.aspects import NO_ASPECTS, AspectCounts, aspect_edges, dataset_aspect_edges
from xrec.storage import Manifest

NUM_USERS, NUM_ITEMS, NUM_ASPECTS = 4, 3, 5


def counts(rows: list[tuple[int, int, int]]) -> AspectCounts:
    return AspectCounts(*torch.tensor(rows).T)


def test_aspect_edges_weigh_counts_by_how_few_items_have_the_aspect():
    edges = aspect_edges(
        counts([(3, 4, 2), (0, 0, 1)]),
        counts([(0, 0, 1), (1, 0, 3), (1, 4, 1), (0, 2, 1), (1, 2, 1), (2, 2, 1)]),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_aspects=NUM_ASPECTS,
    )
    names = zip(edges.nodes.tolist(), edges.aspects.tolist(), strict=True)
    common, rare = math.log(4 / 3), math.log(4 / 2)  # of 3 items, 2 have aspect 0 and 1 aspect 4
    assert dict(zip(names, edges.weights.tolist(), strict=True)) == pytest.approx(
        {
            (3, 4): math.log(3) * rare,
            (0, 0): math.log(2) * common,
            (NUM_USERS + 0, 0): math.log(2) * common,
            (NUM_USERS + 1, 0): math.log(4) * common,
            (NUM_USERS + 1, 4): math.log(2) * rare,
        },  # and aspect 2, which all items have, connects nobody
        rel=1e-6,
    )


def dataset(**tables: pa.Table) -> Dataset:
    empty = pa.table({"user_id": [], "item_id": []})
    return Dataset(
        Manifest.model_construct(),
        users=pa.table({"user_id": ["a", "b"]}),
        items=pa.table({"item_id": ["x", "y", "z"]}),
        interactions=empty,
        explanations=empty,
        **tables,
    )


def counted(first: str, rows: list[tuple[int, int, int, int, int]]) -> pa.Table:
    schema = schemas.USER_ASPECTS if first == "user_index" else schemas.ITEM_ASPECTS
    names = [first, "aspect_index", "num_reviews", "num_positive", "num_negative"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table(columns).select(schema.names).cast(schema)


@pytest.mark.parametrize(
    ("sentiment", "expected"),
    [("all", [(0, 1), (1, 0), (2, 1)]), ("positive", [(1, 0)]), ("not_negative", [(0, 1), (1, 0)])],
)
def test_dataset_aspect_edges_count_the_mentions_of_the_sentiment(sentiment, expected):
    found = dataset_aspect_edges(
        dataset(
            aspects=pa.table({"aspect": ["tone", "neck"]}),
            user_aspects=counted("user_index", [(0, 1, 1, 0, 0), (1, 0, 2, 2, 0)]),
            item_aspects=counted("item_index", [(0, 1, 2, 0, 2)]),
        ),
        AspectNodesConfig(sentiment=sentiment),
    )
    assert list(zip(found.nodes.tolist(), found.aspects.tolist(), strict=True)) == expected
    assert found.num_aspects == 2


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, r"has no aspects.*model\.aspects=null"),
        (
            {
                "aspects": pa.table({"aspect": ["tone"]}),
                "user_aspects": counted("user_index", [(0, 0, 1, 0, 0)]),
                "item_aspects": counted("item_index", [(0, 7, 1, 0, 0), (1, 0, 1, 0, 0)]),
            },
            r"item_aspects: 1 rows .* the first is 7; expected 0 to 0",
        ),
    ],
)
def test_dataset_without_aspects_or_with_unknown_ones_is_refused_if_some_are_wanted(
    tables, message
):
    assert dataset_aspect_edges(dataset(**tables), None) is NO_ASPECTS
    with pytest.raises(DataError, match=message):
        dataset_aspect_edges(dataset(**tables), AspectNodesConfig())

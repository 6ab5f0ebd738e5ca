"""Assembly: indices, findings, splits; and no held-out explanation is a training edge."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.config.data import SplitShares
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.source import SourceData
from xrec.errors import DataError

SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
Row = tuple[str, str, str | None]
TRAIN: Row = ("u0", "i0", "train")


def _pairs(rows: Sequence[Row], file: str) -> dict[str, Any]:
    return {
        **{
            name: pa.array([row[place] for row in rows], pa.string())
            for place, name in enumerate(("user_id", "item_id", "split"))
        },
        "file": pa.array([file] * len(rows), pa.string()),
        "line": pa.array(range(1, len(rows) + 1), pa.int64()),
    }


def _source(
    interactions: Sequence[Row], explanations: Sequence[Row], num_users: int = 3
) -> SourceData:
    users = pa.array([f"u{n}" for n in range(num_users)], pa.string())
    texts = pa.array([f"because {row[0]} {row[1]}" for row in explanations], pa.string())
    items = {"item_id": [f"i{n}" for n in range(20)], "title": ["t"] * 20, "profile": ["p"] * 20}
    return SourceData(
        users=pa.table({"user_id": users, "profile": pa.array([""] * num_users, pa.string())}),
        items=pa.table(items),
        interactions=pa.table(_pairs(interactions, "interactions")),
        explanations=pa.table({**_pairs(explanations, "explanations"), "explanation": texts}),
        findings=(),
        num_rows={"interactions": len(interactions), "explanations": len(explanations)},
    )


def _random_source(seed: int) -> SourceData:
    rng = Random(seed)
    all_pairs = [(f"u{u}", f"i{i}") for u in range(30) for i in range(20)]
    splits = ["train", "train", "validation", "test", None]
    return _source(
        [(*pair, rng.choice(splits)) for pair in rng.sample(all_pairs, 300)],
        [(*pair, rng.choice(splits)) for pair in rng.sample(all_pairs, 200)],
        num_users=30,
    )


def _splits(assembled: Assembled, name: str) -> dict[tuple[int, int], str]:
    rows = assembled.tables[name].to_pylist()
    return {(row["user_index"], row["item_index"]): row["split"] for row in rows}


@pytest.mark.parametrize("seed", range(5))
def test_assemble_random_pairs_no_held_out_explanation_is_a_training_edge(seed):
    source = _random_source(seed)
    assembled = assemble(source, SHARES)
    interactions, explanations = (
        _splits(assembled, name) for name in ("interactions", "explanations")
    )
    train = {pair for pair, split in interactions.items() if split == "train"}
    held_out = {pair for pair, split in explanations.items() if split != "train"}
    assert not train & held_out
    # The removed ones are gone altogether, and nothing else is.
    given = {
        (int(row["user_id"][1:]), int(row["item_id"][1:]))
        for row in source.interactions.to_pylist()
    }
    assert given - set(interactions) <= held_out
    assert len(given) - len(interactions) == assembled.metrics["num_removed_edges"] > 0
    for pairs in (interactions, explanations):
        assert list(pairs) == sorted(pairs)
    tables = assembled.tables
    for name in ("users", "items", "interactions", "explanations"):
        assert tables[name].schema.equals(getattr(schemas, name.upper()))
    for row in tables["explanations"].to_pylist():
        assert row["explanation"] == f"because u{row['user_index']} i{row['item_index']}"
    # The order of the rows does not matter.
    shuffled = source.interactions.take(Random(1).sample(range(300), 300))
    again = assemble(replace(source, interactions=shuffled), SHARES).tables["interactions"]
    assert again.equals(tables["interactions"])


@pytest.mark.parametrize(
    ("explained", "kept"),
    [
        (TRAIN, {(0, 0): "train", (0, 1): "test"}),
        (("u0", "i1", "test"), {(0, 0): "train", (0, 1): "test"}),
        (("u0", "i0", "test"), {(0, 1): "test"}),
    ],
)
def test_assemble_removes_the_training_edge_of_a_held_out_explanation_alone(explained, kept):
    assembled = assemble(_source([TRAIN, ("u0", "i1", "test")], [explained]), SHARES)
    assert _splits(assembled, "interactions") == kept
    assert assembled.metrics["num_removed_edges"] == 2 - len(kept)


def test_assemble_pairs_without_a_split_get_the_same_one_in_all_tables():
    pairs: list[Row] = [(f"u{u}", f"i{i}", None) for u in range(3) for i in range(20)]
    pairs[0] = (*pairs[0][:2], "test")
    source = _source(pairs, pairs)
    named = {name: source.explanations[name] for name in ("user_id", "item_id", "split")}
    more = {"aspect": ["tea"] * 60, "opinion": [""] * 60, "sentiment": ["positive"] * 60}
    assembled = assemble(replace(source, aspects=pa.table({**named, **more})), SHARES)
    splits = _splits(assembled, "explanations")
    assert splits == _splits(assembled, "interactions") == _splits(assembled, "explanation_aspects")
    assert splits[0, 0] == "test"
    assert set(splits.values()) == {"train", "validation", "test"}
    # Held-out aspects are not counted.
    num_training = sum(split == "train" for split in splits.values())
    assert assembled.tables["aspects"]["num_reviews"].to_pylist() == [num_training]


def test_assemble_unusable_rows_are_findings_with_line_and_reason():
    interactions: list[Row] = [TRAIN, ("ux", *TRAIN[1:]), ("u1", "ix", "train"), TRAIN]
    explanations: list[Row] = [("u0", "i1", None), ("u0", "i2", None), ("ux", "i1", None)]
    source = _source(interactions, explanations)
    texts = source.explanations.set_column(5, "explanation", pa.array(["ok", "", "ok"]))
    assembled = assemble(replace(source, explanations=texts), SHARES)
    assert [(f.file, f.line, f.reason) for f in assembled.findings] == [
        ("interactions", 2, "unknown user_id"),
        ("interactions", 3, "unknown item_id"),
        ("interactions", 4, "duplicate of an earlier pair"),
        ("explanations", 2, "empty explanation"),
        ("explanations", 3, "unknown user_id"),
    ]
    assert _splits(assembled, "interactions") == {(0, 0): "train"}
    assert assembled.tables["explanations"]["explanation"].to_pylist() == ["ok"]


def test_assemble_metrics_count_users_and_items_without_a_training_edge():
    rows: list[Row] = [TRAIN, ("u1", "i1", "train"), ("u1", "i2", "test")]
    assert assemble(_source(rows, [("u1", "i1", "test")]), SHARES).metrics == {
        "num_removed_edges": 1,
        "num_users_without_train_edge": 2,
        "num_items_without_train_edge": 19,
        "num_interactions": {"train": 1, "validation": 0, "test": 1},
        "num_explanations": {"train": 0, "validation": 0, "test": 1},
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (_source([("u0", "i0", "test")], []), "no interaction is left for training"),
        (_source([], [], num_users=0), "no usable users"),
    ],
)
def test_check_not_empty_refuses_a_dataset_without_users_or_training_edges(source, message):
    check_not_empty(assemble(_source([TRAIN], []), SHARES).tables)
    with pytest.raises(DataError, match=message):
        check_not_empty(assemble(source, SHARES).tables)

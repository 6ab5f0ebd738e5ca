"""Assembly: indices, findings, splits; and no held-out explanation is a training edge."""

from dataclasses import replace
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.config.data import SplitShares
from xrec.data.assemble import assemble, check_not_empty
from xrec.data.source import SourceData
from xrec.errors import DataError

SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
Row = tuple[str, str, str | None]


def _pairs(rows: list[Row], file: str) -> dict[str, Any]:
    return {
        "user_id": pa.array([row[0] for row in rows], pa.string()),
        "item_id": pa.array([row[1] for row in rows], pa.string()),
        "split": pa.array([row[2] for row in rows], pa.string()),
        "file": pa.array([file] * len(rows), pa.string()),
        "line": pa.array(range(1, len(rows) + 1), pa.int64()),
    }


def _source(
    interactions: list[Row],
    explanations: list[Row],
    texts: list[str] | None = None,
    num_users: int = 3,
) -> SourceData:
    texts = [f"because {row[0]} {row[1]}" for row in explanations] if texts is None else texts
    user_ids = [f"u{n}" for n in range(num_users)]
    return SourceData(
        users=pa.table(
            {
                "user_id": pa.array(user_ids, pa.string()),
                "profile": pa.array([""] * num_users, pa.string()),
            }
        ),
        items=pa.table(
            {"item_id": [f"i{n}" for n in range(20)], "title": ["t"] * 20, "profile": ["p"] * 20}
        ),
        interactions=pa.table(_pairs(interactions, "interactions")),
        explanations=pa.table(
            {**_pairs(explanations, "explanations"), "explanation": pa.array(texts, pa.string())}
        ),
        findings=(),
        num_rows={"interactions": len(interactions), "explanations": len(explanations)},
    )


def _random_source(seed: int) -> SourceData:
    rng = Random(seed)
    all_pairs = [(f"u{u}", f"i{i}") for u in range(30) for i in range(20)]
    interactions: list[Row] = [
        (*pair, rng.choice(["train", "train", "validation", "test", None]))
        for pair in rng.sample(all_pairs, 300)
    ]
    explanations: list[Row] = [
        (*pair, rng.choice(["train", "validation", "test", None, None]))
        for pair in rng.sample(all_pairs, 200)
    ]
    return _source(interactions, explanations, num_users=30)


def _as_dict(pairs: pa.Table) -> dict[tuple[int, int], str]:
    return {(row["user_index"], row["item_index"]): row["split"] for row in pairs.to_pylist()}


@pytest.mark.parametrize("seed", range(5))
def test_assemble_random_pairs_no_held_out_explanation_is_a_training_edge(seed: int) -> None:
    source = _random_source(seed)
    assembled = assemble(source, SHARES)
    interactions, explanations = (
        _as_dict(assembled.tables["interactions"]),
        _as_dict(assembled.tables["explanations"]),
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


def test_assemble_held_out_pair_keeps_its_held_out_interaction() -> None:
    assembled = assemble(
        _source([("u0", "i0", "test"), ("u0", "i1", "train")], [("u0", "i0", "test")]), SHARES
    )
    assert _as_dict(assembled.tables["interactions"]) == {(0, 0): "test", (0, 1): "train"}


def test_assemble_training_explanation_keeps_its_training_edge() -> None:
    assembled = assemble(_source([("u0", "i0", "train")], [("u0", "i0", "train")]), SHARES)
    assert assembled.metrics["num_removed_edges"] == 0
    assert assembled.tables["interactions"].num_rows == 1


def test_assemble_aspects_get_the_split_of_their_pair_and_held_out_ones_are_not_counted() -> None:
    pairs: list[Row] = [(f"u{u}", f"i{i}", None) for u in range(3) for i in range(20)]
    pairs[0] = (*pairs[0][:2], "test")
    source = _source(pairs, pairs)
    columns = ("user_id", "item_id", "split")
    source = replace(
        source,
        aspects=pa.table(
            {
                **{name: source.explanations[name] for name in columns},
                "aspect": ["tea"] * 60,
                "opinion": [""] * 60,
                "sentiment": ["positive"] * 60,
            }
        ),
    )
    tables = assemble(source, SHARES).tables
    assert _as_dict(tables["explanation_aspects"]) == _as_dict(tables["explanations"])
    assert _as_dict(tables["explanation_aspects"])[0, 0] == "test"
    num_training = sum(split == "train" for split in _as_dict(tables["explanations"]).values())
    assert tables["aspects"]["num_reviews"].to_pylist() == [num_training] != [60]


def test_assemble_pairs_without_a_split_get_the_same_one_in_both_tables() -> None:
    pairs: list[Row] = [(f"u{n % 3}", f"i{n % 20}", None) for n in range(60)]
    assembled = assemble(_source(pairs, pairs), SHARES)
    assert _as_dict(assembled.tables["interactions"]) == _as_dict(assembled.tables["explanations"])
    assert assembled.metrics["num_removed_edges"] == 0
    assert set(_as_dict(assembled.tables["interactions"]).values()) == {
        "train",
        "validation",
        "test",
    }


def test_assemble_unusable_rows_are_findings_with_line_and_reason() -> None:
    interactions: list[Row] = [
        ("u0", "i0", "train"),
        ("ux", "i0", "train"),
        ("u1", "ix", "train"),
        ("u0", "i0", "test"),
    ]
    explanations: list[Row] = [("u0", "i1", None), ("u0", "i2", None), ("ux", "i1", None)]
    assembled = assemble(_source(interactions, explanations, texts=["ok", "", "ok"]), SHARES)
    assert [(f.file, f.line, f.reason) for f in assembled.findings] == [
        ("interactions", 2, "unknown user_id"),
        ("interactions", 3, "unknown item_id"),
        ("interactions", 4, "duplicate of an earlier pair"),
        ("explanations", 2, "empty explanation"),
        ("explanations", 3, "unknown user_id"),
    ]
    assert _as_dict(assembled.tables["interactions"]) == {(0, 0): "train"}
    assert assembled.tables["explanations"]["explanation"].to_pylist() == ["ok"]


def test_assemble_rows_in_other_order_same_pair_tables() -> None:
    source = _random_source(7)
    order = Random(1).sample(range(300), 300)
    shuffled = SourceData(**{**vars(source), "interactions": source.interactions.take(order)})
    assert (
        assemble(shuffled, SHARES)
        .tables["interactions"]
        .equals(assemble(source, SHARES).tables["interactions"])
    )


def test_assemble_pairs_come_by_user_then_item() -> None:
    tables = assemble(_random_source(5), SHARES).tables
    for name in ("interactions", "explanations"):
        pairs = list(_as_dict(tables[name]))
        assert pairs == sorted(pairs)


def test_assemble_tables_have_the_pinned_schemas_and_keep_texts_with_their_pair() -> None:
    tables = assemble(_random_source(3), SHARES).tables
    assert tables["users"].schema.equals(schemas.USERS)
    assert tables["items"].schema.equals(schemas.ITEMS)
    assert tables["interactions"].schema.equals(schemas.INTERACTIONS)
    assert tables["explanations"].schema.equals(schemas.EXPLANATIONS)
    for row in tables["explanations"].to_pylist():
        assert row["explanation"] == f"because u{row['user_index']} i{row['item_index']}"


def test_assemble_metrics_count_users_and_items_without_a_training_edge() -> None:
    rows: list[Row] = [("u0", "i0", "train"), ("u1", "i1", "train"), ("u1", "i2", "test")]
    metrics = assemble(_source(rows, [("u1", "i1", "test")]), SHARES).metrics
    assert metrics["num_removed_edges"] == 1
    assert metrics["num_users_without_train_edge"] == 2
    assert metrics["num_items_without_train_edge"] == 19
    assert metrics["num_interactions"] == {"train": 1, "validation": 0, "test": 1}
    assert metrics["num_explanations"] == {"train": 0, "validation": 0, "test": 1}


def test_assemble_without_explanations_gives_an_empty_table() -> None:
    tables = assemble(_source([("u0", "i0", "train")], []), SHARES).tables
    assert tables["explanations"].num_rows == 0
    check_not_empty(tables)


def test_check_not_empty_without_training_interactions_raises() -> None:
    tables = assemble(_source([("u0", "i0", "test")], []), SHARES).tables
    with pytest.raises(DataError, match="no interaction is left for training"):
        check_not_empty(tables)


def test_check_not_empty_without_users_raises() -> None:
    tables = assemble(_source([], [], num_users=0), SHARES).tables
    with pytest.raises(DataError, match="no usable users"):
        check_not_empty(tables)

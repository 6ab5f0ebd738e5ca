"""Assembly: indices, findings, splits; and no held-out explanation is a training edge."""

from collections.abc import Mapping, Sequence
from random import Random

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.config.data import SplitShares
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.staging import Staging
from xrec.errors import DataError

SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
Row = tuple[str, str, str | None]
Source = Mapping[str, pa.Table]
TRAIN: Row = ("u0", "i0", "train")


def _pairs(rows: Sequence[Row]) -> pa.Table:
    return pa.table(
        {
            name: pa.array([row[place] for row in rows], pa.string())
            for place, name in enumerate(("user_id", "item_id", "split"))
        }
    )


def _source(
    interactions: Sequence[Row], explanations: Sequence[Row], num_users: int = 3
) -> dict[str, pa.Table]:
    users = pa.array([f"u{n}" for n in range(num_users)], pa.string())
    texts = pa.array([f"because {row[0]} {row[1]}" for row in explanations], pa.string())
    items = {"item_id": [f"i{n}" for n in range(20)], "title": ["t"] * 20, "profile": ["p"] * 20}
    return {
        "users": pa.table({"user_id": users, "profile": pa.array([""] * num_users, pa.string())}),
        "items": pa.table(items),
        "interactions": _pairs(interactions),
        "explanations": _pairs(explanations).append_column("explanation", texts),
    }


def _assembled(source: Source) -> Assembled:
    with Staging(SHARES) as staging:
        staging.add(source)
        found = assemble(staging)
        return Assembled(whole(found.tables), found.metrics)


def whole(tables: Mapping[str, pa.Table | pa.RecordBatchReader]) -> dict[str, pa.Table]:
    """All rows of assembled tables, in the schemas of a dataset."""
    return {
        name: (each if isinstance(each, pa.Table) else each.read_all())
        .select((schema := getattr(schemas, name.upper())).names)
        .cast(schema)
        for name, each in tables.items()
    }


USERS = {name: place for place, name in enumerate(sorted(f"u{n}" for n in range(30)))}
ITEMS = {name: place for place, name in enumerate(sorted(f"i{n}" for n in range(20)))}


def _random_source(seed: int) -> Source:
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
    assembled = _assembled(source)
    interactions, explanations = (
        _splits(assembled, name) for name in ("interactions", "explanations")
    )
    train = {pair for pair, split in interactions.items() if split == "train"}
    held_out = {pair for pair, split in explanations.items() if split != "train"}
    assert not train & held_out
    # The removed ones are gone altogether, and nothing else is.
    given = {
        (USERS[row["user_id"]], ITEMS[row["item_id"]]) for row in source["interactions"].to_pylist()
    }
    assert given - set(interactions) <= held_out
    assert len(given) - len(interactions) == assembled.metrics["num_removed_edges"] > 0
    for pairs in (interactions, explanations):
        assert list(pairs) == sorted(pairs)
    tables = assembled.tables
    for name in ("users", "items", "interactions", "explanations"):
        assert tables[name].schema.equals(getattr(schemas, name.upper()))
    for row in tables["explanations"].to_pylist():
        user, item = row["explanation"].split()[1:]
        assert (USERS[user], ITEMS[item]) == (row["user_index"], row["item_index"])
    assert tables["users"]["user_id"].to_pylist() == sorted(USERS)


def test_assemble_pairs_without_a_split_get_the_same_one_in_all_tables():
    pairs: list[Row] = [(f"u{u}", f"i{i}", None) for u in range(3) for i in range(20)]
    pairs[0] = (*pairs[0][:2], "test")
    source = _source(pairs, pairs)
    source["aspects"] = source["explanations"].drop_columns("explanation")
    for name, value in (("aspect", "tea"), ("opinion", ""), ("sentiment", "positive")):
        source["aspects"] = source["aspects"].append_column(name, pa.repeat(value, 60))
    assembled = _assembled(source)
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
    texts = pa.array(["ok", "", "ok"])
    source["explanations"] = source["explanations"].set_column(3, "explanation", texts)
    with Staging(SHARES) as staging:
        staging.add(source)
        tables = whole(assemble(staging).tables)
        findings, counts = staging.findings().read_all().to_pylist(), staging.rejected()
    assert [(row["file"], row["line"], row["reason"]) for row in findings] == [
        ("explanations", 2, "empty explanation"),
        ("explanations", 3, "unknown user_id"),
        ("interactions", 2, "unknown user_id"),
        ("interactions", 3, "unknown item_id"),
        ("interactions", 4, "duplicate of another pair"),
    ]
    assert findings[2]["text"] == '{"user_id":"ux","item_id":"i0","split":"train"}'
    assert sorted(each.count for each in counts) == [1] * 5
    assert tables["interactions"].num_rows == 1
    assert tables["explanations"]["explanation"].to_pylist() == ["ok"]


@pytest.mark.parametrize(
    ("splits", "texts", "kept"),
    [
        ((None, None), ("short", "the longest one"), ("train", "the longest one")),
        (("train", "train"), ("bb", "ab"), ("train", "ab")),
        (("train", "validation"), ("the longest one", "x"), ("validation", "x")),
        (("test", "validation"), ("a", "b"), ("test", "a")),
        (("test", "train"), ("", "x"), ("train", "x")),
    ],
)
def test_assemble_repeated_pair_the_row_that_counts_depends_on_no_order(splits, texts, kept):
    pair = ("u0", "i0")
    for turn in (1, -1):
        source = _source([], [(*pair, split) for split in splits[::turn]])
        explanations = source["explanations"].set_column(3, "explanation", pa.array(texts[::turn]))
        (row,) = (
            _assembled({**source, "explanations": explanations}).tables["explanations"].to_pylist()
        )
        assert (row["split"], row["explanation"]) == kept


def test_assemble_repeated_user_has_the_longest_profile():
    profiles = ["", "tea and cake", "tea"]
    for turn in (1, -1):
        users = pa.table({"user_id": ["u0"] * 3, "profile": profiles[::turn]})
        source = {**_source([TRAIN], []), "users": users}
        assert _assembled(source).tables["users"]["profile"].to_pylist() == ["tea and cake"]


def test_assemble_metrics_count_users_and_items_without_a_training_edge():
    rows: list[Row] = [TRAIN, ("u1", "i1", "train"), ("u1", "i2", "test")]
    assert _assembled(_source(rows, [("u1", "i1", "test")])).metrics == {
        "num_without_table": {},
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
    for each, is_refused in ((_source([TRAIN], []), False), (source, True)):
        with Staging(SHARES) as staging:
            staging.add(each)
            assemble(staging)
            if is_refused:
                with pytest.raises(DataError, match=message):
                    check_not_empty(staging)
            else:
                check_not_empty(staging)

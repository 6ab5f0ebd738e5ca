"""Assembly: indices, findings; splits and draws by hash, which no order or company changes.

No held-out explanation is a training edge.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from random import Random

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.xrec.data.test_dataset import TABLES
from xrec import schemas
from xrec.config.data import SplitShares
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.data.splits import drawn, drawn_explanations, drawn_pairs, pair_fraction, split_pairs
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Manifest

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


@pytest.mark.parametrize("seed", range(3))
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
    ("source", "code", "key"),
    [
        (_source([("u0", "i0", "test")], []), "no_training_pair", "interactions"),
        (_source([], [], num_users=0), "empty_table", "users"),
        (_source([TRAIN], []), None, ""),
    ],
)
def test_check_not_empty_refuses_a_dataset_without_users_or_training_edges(source, code, key):
    with Staging(SHARES) as staging:
        staging.add(source)
        assemble(staging)
        with raises(DataError, code, key) if code else nullcontext():
            check_not_empty(staging)


PAIRS = [(f"user {n % 97}", f"item {n}") for n in range(10_000)]


def _split(pairs: list[tuple[str, str]], shares: SplitShares = SHARES) -> list[str]:
    return list(split_pairs([user for user, _ in pairs], [item for _, item in pairs], shares))


def test_split_pairs_many_pairs_meet_the_shares():
    counts = Counter(_split(PAIRS))
    # Four standard deviations of a binomial with n = 10,000.
    assert counts["test"] == pytest.approx(2000, abs=160)
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts.total() == len(PAIRS)
    assert set(_split(PAIRS, SplitShares(validation=0, test=0))) == {"train"}


def test_split_of_a_pair_depends_on_its_ids_and_the_seed_alone():
    splits = _split(PAIRS)
    shuffled = random.Random(1).sample(range(len(PAIRS)), 500)
    assert _split([PAIRS[n] for n in shuffled]) == [splits[n] for n in shuffled]
    larger = _split(PAIRS, SHARES.model_copy(update={"test": 0.3}))
    assert all(
        after == "test" for before, after in zip(splits, larger, strict=True) if before == "test"
    )
    other = _split(PAIRS, SHARES.model_copy(update={"seed": 1}))
    assert sum(a != b for a, b in zip(splits, other, strict=True)) > 3000
    assert pair_fraction("a", "bc", 0) != pair_fraction("ab", "c", 0)
    # Datasets that were split before, by another release too, must be split so again.
    assert pair_fraction("zoë", "7", 3) == 0.7541063124271723


USER_IDS = [f"u{n % 97}" for n in range(2000)]
ITEM_IDS = [f"i{n}" for n in range(2000)]
EVERYBODY = list(range(2000))


def chosen(order: list[int], count: int, seed: int = 0) -> set[tuple[str, str]]:
    users, items = [USER_IDS[n] for n in order], [ITEM_IDS[n] for n in order]
    positions = drawn(users, items, count, seed=seed)
    assert positions == sorted(positions)
    return {(users[n], items[n]) for n in positions}


def test_drawn_other_order_and_company_draws_the_same_pairs():
    sample = chosen(EVERYBODY, 300)
    assert len(sample) == 300
    assert chosen(EVERYBODY[::-1], 300) == sample
    # Without those that were not drawn, the same ones are the first.
    kept = [n for n in EVERYBODY if (USER_IDS[n], ITEM_IDS[n]) in sample or n % 3 == 0]
    assert chosen(kept, 300) == sample
    assert chosen(EVERYBODY, 100) < sample


def test_drawn_other_seed_draws_others_and_each_pair_is_as_likely():
    counts = Counter(pair for seed in range(100) for pair in chosen(EVERYBODY, 500, seed))
    # A pair is drawn 25 times in 100, with a standard deviation of 4.3.
    assert max(counts.values()) < 50
    assert len(counts) == 2000


def test_drawn_no_count_or_a_large_one_draws_all():
    for count in (None, 7):
        assert drawn(["a", "b"], ["x", "y"], count, seed=0) == [0, 1]
    # The same concatenation is another pair.
    assert {drawn(["a", "ab"], ["bc", "c"], 1, seed=seed)[0] for seed in range(30)} == {0, 1}


def test_drawn_pairs_and_explanations_are_those_of_the_positions_in_their_order():
    pairs = [HeldOutPair(USER_IDS[n], ITEM_IDS[n], 0, 0, "text") for n in range(200)]
    positions = drawn(USER_IDS[:200], ITEM_IDS[:200], 50, seed=3)
    assert drawn_pairs(pairs, 50, seed=3) == [pairs[n] for n in positions]
    assert drawn_pairs(pairs, None, seed=3) == pairs
    dataset = Dataset(Manifest.model_construct(), **TABLES)
    for seed in range(5):
        (place,) = drawn(["ann", "anna-lena"], ["y", "y"], 1, seed=seed)
        found = drawn_explanations(dataset, TABLES["explanations"], 1, seed=seed)
        assert found["explanation"].to_pylist() == ["ef"[place]]

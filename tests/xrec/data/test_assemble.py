"""Assembly and the dataset that it makes: indices, findings, ids, splits and draws by hash."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.town import dataset_of, explained
from xrec import schemas
from xrec.config import SplitShares
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.dataset import HeldOutPair, held_out_pairs
from xrec.data.ids import IdIndex
from xrec.data.splits import drawn, pair_fraction, split_pairs
from xrec.data.staging import Staging
from xrec.errors import DataError


def test_held_out_pairs_have_ids_reference_and_planted_aspects():
    texts = [explained([(0, 1, "e")], "test"), explained([(2, 1, "f")])]
    dataset = dataset_of(3, 2, explanations=pa.concat_tables(texts))
    columns = {"user_index": [0], "item_index": [1], "aspect": ["a"], "aspects": [["a", "b"]]}
    planted = replace(dataset, planted=pa.table(columns))
    pair = HeldOutPair("u0", "i1", 0, 1, "e", "a", ("a", "b"))
    assert held_out_pairs(planted, "test") == [pair]
    assert held_out_pairs(planted, "validation") == []
    assert held_out_pairs(dataset, "test") == [replace(pair, aspect=None, aspects=None)]


SORTED = sorted({f"{n:x}" for n in range(300)} | {"é", "日本", "𝒳", "A b", "'"})
SHUFFLED = random.Random(0).sample(SORTED, len(SORTED))


def _column(ids: list[str], chunk: int) -> pa.ChunkedArray:
    parts = [ids[start : start + chunk] for start in range(0, len(ids), chunk)]
    return pa.chunked_array([[], *parts, []], pa.string())


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize(
    ("ids", "has_order"),
    [(SORTED, False), (SHUFFLED, False), (["", *SHUFFLED, ""], True), ([], False)],
)
def test_id_index_finds_what_a_dictionary_finds(ids, has_order, chunk):
    rows = {each: row for row, each in enumerate(ids) if each}
    order = pa.chunked_array([[rows[each] for each in sorted(rows)]]) if has_order else None
    index = IdIndex(_column(ids, chunk), order)
    assert len(index) == len(rows)
    wanted = [*SORTED, "", "zzz", "10x", "日", "only"]
    assert [index.find(each) for each in wanted] == [rows.get(each) for each in wanted]
    asked = pa.array([*wanted, *wanted[:5]], pa.string())
    expected = [rows.get(each, -1) for each in asked.to_pylist()]
    assert index.rows(asked).tolist() == expected
    assert index.rows(pa.chunked_array([], pa.string())).tolist() == []
    for prefix in ("1", "10", "é", "", "none"):
        found = sorted(each for each in rows if each.startswith(prefix))
        assert list(index.starting_with(prefix)) == found
        for after in (prefix, "b", *ids[:5]):
            assert list(index.starting_with(prefix, after)) == [e for e in found if e > after]


SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
Row = tuple[str, str, str | None]
Source = Mapping[str, pa.Table]
TRAIN: Row = ("u0", "i0", "train")


def _pairs(rows: Sequence[Row]) -> pa.Table:
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    return pa.table(columns, ["user_id", "item_id", "split"])


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


@pytest.mark.parametrize("seed", range(2))
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
    rows = source["interactions"].to_pylist()
    given = {(USERS[row["user_id"]], ITEMS[row["item_id"]]) for row in rows}
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


def test_assemble_keeps_the_same_row_of_a_repeated_pair_in_any_order():
    cases = [
        ((None, None), ("short", "the longest one"), ("train", "the longest one")),
        (("train", "train"), ("bb", "ab"), ("train", "ab")),
        (("train", "validation"), ("the longest one", "x"), ("validation", "x")),
        (("test", "train"), ("", "x"), ("train", "x")),
    ]
    rows = [("u0", f"i{n}", split) for n, (splits, *_) in enumerate(cases) for split in splits]
    texts = [text for _, texts, _ in cases for text in texts]
    for turn in (1, -1):
        source = _source([], rows[::turn])
        explanations = source["explanations"].set_column(3, "explanation", pa.array(texts[::turn]))
        assembled = _assembled({**source, "explanations": explanations})
        found = assembled.tables["explanations"].to_pylist()
        assert [(row["split"], row["explanation"]) for row in found] == [each[2] for each in cases]


def test_assemble_repeated_user_has_the_longest_profile():
    users = pa.table({"user_id": ["u0"] * 3, "profile": ["", "tea and cake", "tea"]})
    tables = _assembled({**_source([TRAIN], []), "users": users}).tables
    assert tables["users"]["profile"].to_pylist() == ["tea and cake"]


def test_check_not_empty_refuses_a_dataset_without_users_or_training_edges():
    held_out = [("u0", "i0", "test")]
    for rows, num_users, code in ((held_out, 3, "no_training_pair"), ([], 0, "empty_table")):
        with Staging(SHARES) as staging:
            staging.add(_source(rows, [], num_users))
            assemble(staging)
            with raises(DataError, code):
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


def _drawn(order: list[int], count: int | None, seed: int = 0) -> set[tuple[str, str]]:
    users, items = [USER_IDS[n] for n in order], [ITEM_IDS[n] for n in order]
    positions = drawn(users, items, count, seed=seed)
    assert positions == sorted(positions)
    return {(users[n], items[n]) for n in positions}


def test_drawn_depends_on_no_order_and_on_no_other_pair():
    sample = _drawn(EVERYBODY, 300)
    assert len(sample) == 300
    assert _drawn(EVERYBODY[::-1], 300) == sample
    # Without some that were not drawn, the same ones are the first.
    kept = [n for n in EVERYBODY if (USER_IDS[n], ITEM_IDS[n]) in sample or n % 3 == 0]
    assert _drawn(kept, 300) == sample
    assert _drawn(EVERYBODY, 100) < sample
    for count in (None, 3000):
        assert len(_drawn(EVERYBODY, count)) == 2000

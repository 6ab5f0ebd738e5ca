"""Rules 3, 7 and 8 of xrec.bulk where a row of the plan becomes several rows of the table."""

from dataclasses import dataclass

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.world.here import PoolHere, plan_of
from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.toy_run import Toy
from xrec import bulk

WORDS = ["a", "bcd", "aa", "-", "--", *(f"w{number}" for number in range(100, 112))]
GOOD_WORDS = [word for word in WORDS if word.strip("-")]
FORMAT = bulk.RowFormat(
    keys=("word",),
    ok=pa.schema([("place", pa.int32()), ("letter", pa.string())]),
    failed=pa.schema([]),
    ok_keys=("place",),
    reasons=("empty",),
)


@dataclass
class Spell:
    """Cuts words into letters; words of dashes have none, unless they are healed."""

    healed: tuple[str, ...] = ()
    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> bulk.Outcome:
        words = rows["word"].to_pylist()
        empty = [word for word in words if word.strip("-") == "" and word not in self.healed]
        good = [word for word in words if word not in empty]
        letters = [dict(zip(FORMAT.ok_schema.names, row, strict=True)) for row in letters_of(good)]
        failed = pa.table({"word": pa.array(empty, pa.string())})
        return bulk.Outcome(
            pa.Table.from_pylist(letters[::-1], FORMAT.ok_schema),
            self.fail(failed, "empty", "no letter"),
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        said = {"reason": reason, "message": message}
        failed = [{**row, **said} for row in rows.to_pylist()]
        return pa.Table.from_pylist(failed, FORMAT.failed_schema)


def toy_of(place: Toys) -> Toy:
    words = pa.table({"word": WORDS})
    run = plan_of(place.uri, "spelling", FORMAT, words, rows_per_chunk=4, storage=place.storage)
    return Toy(run, [], place.folder)


def letters_of(words: list[str]) -> list[tuple[str, int, str]]:
    return sorted((word, place, letter) for word in words for place, letter in enumerate(word))


def ok_rows(toy: Toy) -> list[tuple[str, int, str]]:
    columns = ["word", "place", "letter"]
    table = toy.published().dataset().to_table(columns=columns)
    rows = [(*row.values(),) for row in table.to_pylist()]
    assert all(row[1] == 0 or rows[n - 1][:2] == (row[0], row[1] - 1) for n, row in enumerate(rows))
    return sorted(rows)


def test_rule_7_retry_replaces_a_failed_row_by_all_of_its_rows(toys):
    toys.in_parts(3000)
    toy = toy_of(toys)
    manifest = toy.complete(task=Spell)
    assert ok_rows(toy) == letters_of(GOOD_WORDS)
    assert manifest.row_counts == {"explanations": 15, "failed": 2}
    failed = toy.published().dataset(status="failed").to_table()
    assert sorted(failed["word"].to_pylist()) == ["-", "--"]
    assert failed["place"].null_count == 2
    summary = bulk.Survey(toy.run).summary
    assert (summary.num_ok, summary.num_ok_rows, summary.num_rows) == (15, 54, 17)
    manifest = toy.complete(task=lambda: Spell(healed=("--",)), retry=["empty"])
    assert ok_rows(toy) == letters_of([*GOOD_WORDS, "--"])
    assert manifest.row_counts == {"explanations": 16, "failed": 1}
    summary = bulk.Survey(toy.run).summary
    assert (summary.num_ok_rows, summary.failed) == (56, {"empty": 1})


@pytest.mark.parametrize("what", ["a row twice", "a word lost"])
def test_rule_3_task_that_doubles_a_row_or_loses_a_key_is_an_error(here, what):
    class Wrong(Spell):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            outcome = super().do(rows)
            ok = outcome.ok
            twice = ok.take([0, *range(len(ok))])
            lost = ok.filter(pc.not_equal(ok["word"], ok["word"][0]))
            return bulk.Outcome(twice if what == "a row twice" else lost, outcome.failed)

    with pytest.raises(ValueError, match="expected each row once"):
        toy_of(here).drive(task=Wrong)


@pytest.mark.parametrize("by", ["nobody", "z_order"])
def test_rule_13_takedown_lowers_each_row_count_by_its_own_unit(here, by):
    toy = toy_of(here)

    def describe(summary: bulk.Summary) -> tuple[dict[str, str | int], dict[str, str]]:
        counts = {"letters": "num_ok_rows", "words": "num_rows", "empty": "num_failed", "fixed": 7}
        return counts, {}

    manifest = bulk.complete(toy.run, PoolHere(), Spell, "explanations", describe)
    assert manifest.row_counts == {"letters": 54, "words": 17, "empty": 2, "fixed": 7}
    if by == "z_order":  # the letters of a word are in several files then
        table = deltalake.DeltaTable(here.uri)
        table.optimize.z_order(["place"], target_size=1)
    for row in ({"word": "bcd"}, {"word": "--"}, {"letter": "a"}, {"letter": "w"}):
        bulk.take_down(here.uri, rows=[row], reason="no")
    left = [row for row in letters_of(GOOD_WORDS) if row[0] != "bcd" and row[2] not in "aw"]
    table = toy.published().dataset().to_table(columns=["word", "place", "letter"])
    assert sorted((*row.values(),) for row in table.to_pylist()) == left
    words = len({word for word, _, _ in left})
    counts = {"letters": len(left), "words": words + 1, "empty": 1, "fixed": 7}
    assert toy.published().manifest.row_counts == counts

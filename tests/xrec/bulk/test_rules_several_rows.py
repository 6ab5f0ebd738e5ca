"""Rules 3, 7 and 8 of xrec.bulk where a row of the plan becomes several rows of the table."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import PoolHere, describe, plan_of
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


def run_of(place: Place) -> bulk.BulkRun:
    words = pa.table({"word": WORDS})
    return plan_of(place.uri, "spelling", FORMAT, words, rows_per_chunk=4, storage=place.storage)


def complete_here(run: bulk.BulkRun, task: Spell, **settings: Any) -> Any:
    """Run to the end in this process, and publish; returns the manifest."""
    return bulk.complete(run, PoolHere(), lambda: task, "recommendations", describe, **settings)


def letters_of(words: list[str]) -> list[tuple[str, int, str]]:
    """Word, place and letter of each letter, sorted."""
    return sorted((word, place, letter) for word in words for place, letter in enumerate(word))


def ok_rows(run: bulk.BulkRun) -> list[tuple[str, int, str]]:
    """The rows of words that succeeded, sorted; those of a word lie together, in their order."""
    table = bulk.published(run.output.uri, storage=run.storage)
    columns = ["word", "place", "letter"]
    rows = [(*row.values(),) for row in table.dataset().to_table(columns=columns).to_pylist()]
    assert all(row[1] == 0 or rows[n - 1][:2] == (row[0], row[1] - 1) for n, row in enumerate(rows))
    return sorted(rows)


def test_rule_3_each_row_becomes_all_of_its_rows_or_a_failed_one(place):
    run = run_of(place)
    manifest = complete_here(run, Spell())
    assert ok_rows(run) == letters_of(GOOD_WORDS)
    assert manifest.row_counts == {"explanations": 15, "failed": 2}
    failed = bulk.published(place.uri, storage=place.storage).dataset(status="failed").to_table()
    assert sorted(failed["word"].to_pylist()) == ["-", "--"]
    assert failed["place"].null_count == 2
    summary = bulk.Survey(run).summary
    assert (summary.num_ok, summary.num_ok_rows, summary.num_rows) == (15, 54, 17)


def test_rule_7_retry_replaces_a_failed_row_by_all_of_its_rows(toys):
    toys.patch.setattr("xrec.bulk.parts.PART_BYTES", 3000)
    run = run_of(toys)
    complete_here(run, Spell())
    manifest = complete_here(run, Spell(healed=("--",)), retry=["empty"])
    assert ok_rows(run) == letters_of([*GOOD_WORDS, "--"])
    assert manifest.row_counts == {"explanations": 16, "failed": 1}
    summary = bulk.Survey(run).summary
    assert (summary.num_ok_rows, summary.failed) == (56, {"empty": 1})


@pytest.mark.parametrize("what", ["a row twice", "a word lost"])
def test_rule_3_task_that_doubles_a_row_or_loses_a_key_is_an_error(here, what):
    do = Spell.do

    def wrong(task: Spell, rows: pa.Table) -> bulk.Outcome:
        outcome, ok = do(task, rows), do(task, rows).ok
        twice = ok.take([0, *range(len(ok))])
        lost = ok.filter(pc.not_equal(ok["word"], ok["word"][0]))
        return bulk.Outcome(twice if what == "a row twice" else lost, outcome.failed)

    here.patch.setattr(Spell, "do", wrong)
    with pytest.raises(ValueError, match="expected each row once"):
        bulk.drive(run_of(here), PoolHere(), Spell)

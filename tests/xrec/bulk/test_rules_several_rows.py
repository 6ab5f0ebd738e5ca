"""Rules 5, 7, 8 and 14 of xrec.bulk where a row of the plan becomes several rows of the table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.xrec.bulk.toy_run import PoolHere
from tests.xrec.table.conftest import Place
from xrec.bulk import BulkRun, Identity, Outcome, RowFormat, clean_keys, compact, drive, open_run
from xrec.bulk.attempts import works_of
from xrec.bulk.state import read_state
from xrec.bulk.worker import ChunkWorker

FORMAT = RowFormat(
    keys=("word",),
    ok=pa.schema([("place", pa.int32()), ("letter", pa.string())]),
    failed=pa.schema([]),
    ok_keys=("place",),
    reasons=("empty",),
)
WORDS = ["a", "bcd", "aa", "-", "--", *(f"w{number}" for number in range(100, 112))]


@dataclass
class Spell:
    """Cuts words into letters; words of dashes have none, unless they are healed."""

    healed: set[str] = field(default_factory=set)
    stale: str = "nothing"
    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        words = rows["word"].to_pylist()
        empty = [word for word in words if word.strip("-") == "" and word not in self.healed]
        letters = [
            {"word": word, "place": place, "letter": letter}
            for word in words
            if word not in empty
            for place, letter in enumerate(word)
        ]
        failed = self.fail(pa.table({"word": pa.array(empty, pa.string())}), "empty", "no letter")
        return Outcome(pa.Table.from_pylist(letters, FORMAT.ok_schema), failed)

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        texts = {"reason": reason, "message": message}
        return pa.Table.from_pylist(
            [{**row, **texts} for row in rows.to_pylist()], FORMAT.failed_schema
        )

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """See CarryingTask: one letter of a word is no longer good."""
        return pc.not_equal(earlier["letter"], self.stale)


def run_of(place: Place, **settings: Any) -> BulkRun:
    """Plan the words."""
    uri = settings.pop("uri", place.uri)
    return open_run(
        uri,
        Identity(kind="spelling", config={}, inputs={}),
        FORMAT,
        lambda: [clean_keys(pa.table({"word": WORDS}), FORMAT.keys, file="words", first_line=1)],
        listing={},
        rows_per_chunk=4,
        storage=place.storage,
        **settings,
    )


def drive_here(run: BulkRun, task: Spell | None = None, **settings: Any) -> Any:
    """Run to the end in this process."""
    task = task or Spell()
    pool = PoolHere(run.worker_settings(lambda: task))
    return drive(run, pool, holder="test", **settings)


def letters_of(words: list[str]) -> list[tuple[str, int, str]]:
    """Word, place and letter of each letter, sorted."""
    return sorted((word, place, letter) for word in words for place, letter in enumerate(word))


def ok_rows(run: BulkRun, version: int | None = None) -> list[tuple[str, int, str]]:
    """The rows of words that succeeded, sorted."""
    dataset = run.table.snapshot(version).dataset([("status", "=", "ok")])
    rows = dataset.to_table(columns=["word", "place", "letter"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


GOOD_WORDS = [word for word in WORDS if word.strip("-")]


def test_rule_5_each_row_becomes_all_of_its_rows_or_a_failed_one(place: Place) -> None:
    run = run_of(place)
    state = drive_here(run)
    assert ok_rows(run) == letters_of(GOOD_WORDS)
    failed = run.table.snapshot().dataset([("status", "=", "failed")]).to_table()
    assert sorted(failed["word"].to_pylist()) == ["-", "--"]
    assert failed["place"].null_count == 2
    assert (state.num_ok, state.failed, state.num_rows) == (15, {"empty": 2}, 17)
    assert (state.num_ok_rows, state.num_table_rows) == (54, 56)


def test_rule_5_rows_of_a_file_are_sorted_by_keys_and_ok_keys(disk: Place) -> None:
    run = run_of(disk)
    drive_here(run)
    snapshot = run.table.snapshot()
    for path in snapshot.files([("status", "=", "ok")])["path"].to_pylist():
        rows = snapshot.dataset(paths=[path]).to_table(columns=["word", "place"]).to_pylist()
        assert rows == sorted(rows, key=lambda row: (row["word"], row["place"]))


def _twice(ok: pa.Table) -> pa.Table:
    return ok.take([0, *range(ok.num_rows)])


def _without_a_word(ok: pa.Table) -> pa.Table:
    return ok.filter(pc.not_equal(ok["word"], ok["word"][0]))


@pytest.mark.parametrize("change", [_twice, _without_a_word])
def test_rule_5_task_that_doubles_a_row_or_loses_a_key_is_an_error(
    disk: Place, monkeypatch: pytest.MonkeyPatch, change: Callable[[pa.Table], pa.Table]
) -> None:
    run, do = run_of(disk), Spell.do

    def wrong(task: Spell, rows: pa.Table) -> Outcome:
        outcome = do(task, rows)
        return Outcome(change(outcome.ok), outcome.failed)

    monkeypatch.setattr(Spell, "do", wrong)
    unit = next(run.units_left(run.table.snapshot()))
    with pytest.raises(ValueError, match="expected each row once"):
        ChunkWorker(run.worker_settings(Spell)).do(works_of(unit, {})[0])


def test_rule_7_each_version_has_the_rows_that_its_totals_count_of_the_table(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    run = run_of(disk)
    drive_here(run)
    counts = []
    for version, _ in run.table.history():
        _, stated = read_state(run.table, version)
        if stated is not None:
            rows = ok_rows(run, version)
            assert (len(rows), len({row[0] for row in rows})) == (stated.num_ok_rows, stated.num_ok)
            assert run.table.snapshot(version).rows == stated.num_table_rows
            counts.append(stated.num_table_rows)
    assert len(set(counts)) > 3


def test_rule_8_retry_replaces_a_failed_row_by_all_of_its_rows(place: Place) -> None:
    run = run_of(place)
    drive_here(run)
    state = drive_here(run, Spell(healed={"--"}), retry=["empty"])
    assert ok_rows(run) == letters_of([*GOOD_WORDS, "--"])
    assert (state.num_ok, state.num_ok_rows, state.failed) == (16, 56, {"empty": 1})
    compact(run, holder="upkeep")
    assert ok_rows(run) == letters_of([*GOOD_WORDS, "--"])


def test_rule_14_what_a_row_became_is_carried_as_a_whole_or_not_at_all(disk: Place) -> None:
    drive_here(run_of(disk, uri=f"{disk.uri}/earlier"))
    run = run_of(disk, uri=f"{disk.uri}/later", carry_from=f"{disk.uri}/earlier")
    state = drive_here(run, Spell(stale="c"))
    assert ok_rows(run) == letters_of(GOOD_WORDS)
    assert (state.num_ok, state.costs["carried"]) == (15, 14)  # all but bcd
    assert state.num_table_rows == run.table.snapshot().rows


def test_row_format_ok_key_that_is_no_column_of_ok_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ok_keys \['rank'\]: expected columns of ok, \['text'\]"):
        RowFormat(("a",), pa.schema([("text", pa.string())]), pa.schema([]), ok_keys=("rank",))

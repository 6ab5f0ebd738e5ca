"""What a run would do, before it does anything."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.bulk.test_rules_carry import drive_carrying, run_of
from tests.xrec.bulk.toy_run import FORMAT, IDENTITY, batch_of, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import Preview, clean_keys, preview
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    TableError,
)

LISTING = {"rows.parquet": ["1", "2"]}
ROWS = [(f"u-{number}", item) for number in range(12) for item in ("a", "b", "c")]


def never_read() -> Iterator[Any]:
    """An input that must not be read."""
    raise AssertionError("the input was read")


def preview_at(place: Place, **changes: Any) -> Preview:
    """What `toy_run` would do at a place."""
    settings: dict[str, Any] = {
        "identity": IDENTITY,
        "format": FORMAT,
        "batches": lambda: [batch_of(ROWS), batch_of(ROWS[:5])],
        "listing": LISTING,
        "rows_per_chunk": 6,
        "storage": place.storage,
    }
    return preview(place.uri, **{**settings, **changes})


def files_of(place: Place) -> list[str]:
    """The files at a place, with their contents."""
    return sorted(
        f"{name} {(place.location / name).read_bytes()!r}" for name in place.location.files()
    )


def test_preview_counts_what_a_plan_would_have_and_writes_nothing(
    place: Place, tmp_path: Path
) -> None:
    seen = preview_at(place)
    assert not place.location.exists()
    assert seen.counts is not None
    assert (seen.num_rows, seen.counts.num_given, seen.num_left) == (36, 41, 36)
    assert (seen.status, seen.rate, seen.costs_left) == (None, None, None)
    planned = toy_run(place, tmp_path).run.plan.record
    assert (seen.num_rows, seen.num_chunks) == (planned.num_rows, planned.num_chunks)


def test_preview_counts_rejected_rows_by_reason(disk: Place) -> None:
    keys = {"user": [1.5, float("nan"), 2.5], "item": ["a", "b", "c"]}
    bad = clean_keys(pa.table(keys), FORMAT.keys, file="rows", first_line=1)
    seen = preview_at(disk, batches=lambda: [batch_of(ROWS), bad])
    assert (seen.num_rows, seen.rejected) == (36, {"float_id": 2, "nan_id": 1})
    with pytest.raises(DataError, match="there are no rows to do; 3 were rejected, the first at"):
        preview_at(disk, batches=lambda: [bad])


def test_preview_of_a_canary_reads_no_input_and_reckons_by_its_rate(
    place: Place, tmp_path: Path
) -> None:
    toy = toy_run(place, tmp_path)
    assert preview_at(place, batches=never_read).rate is None
    state = toy.drive(max_rows=13)
    before = files_of(place)
    seen = preview_at(place, batches=never_read)
    assert files_of(place) == before
    assert seen.counts is None
    assert (seen.num_done, seen.num_left) == (state.num_rows, 36 - state.num_rows)
    assert seen.is_own_rate
    assert seen.costs_left is not None
    assert seen.costs_left["tokens"] == pytest.approx(3 * seen.num_left)  # three tokens a row
    per_row = state.costs["seconds"] / state.num_rows
    assert seen.costs_left["seconds"] == pytest.approx(per_row * seen.num_left)


def test_preview_takes_the_rate_of_another_run_if_its_own_has_none(
    disk: Place, tmp_path: Path
) -> None:
    other = replace(disk, uri=f"{disk.uri}/other")
    toy_run(other, tmp_path, num_users=3).drive()
    here = replace(disk, uri=f"{disk.uri}/here")
    nothing, broken = f"{disk.uri}/nothing", replace(disk, uri=f"{disk.uri}/broken")
    (broken.location / "manifest.json").write_bytes(b"{}")
    seen = preview_at(here, measured=[nothing, broken.uri, other.uri])
    assert seen.rate is not None
    assert (seen.rate.uri, seen.rate.num_done, seen.is_own_rate) == (other.location.uri, 9, False)
    assert seen.costs_left is not None
    assert seen.costs_left["tokens"] == 108


def test_preview_of_a_run_that_carries_over_takes_the_share_that_was_carried(
    disk: Place, tmp_path: Path
) -> None:
    """Two rows of three are carried; before anything is done, none is reckoned to be."""
    drive_carrying(run_of(disk, "earlier", ["a", "b", "c"]))
    here = replace(disk, uri=f"{disk.uri}/here")
    carry = {"carry_from": f"{disk.uri}/earlier", "listing": {}}
    before = preview_at(here, **carry)
    assert before.costs_left is not None
    assert before.costs_left["tokens"] == 108
    toy = run_of(disk, "here", ["a", "b", "c"], carry_from="earlier")

    def interrupt(work: object) -> None:
        if len(pool_done) == 3:
            raise KeyboardInterrupt
        pool_done.append(work)

    pool_done: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        drive_carrying(toy, before=interrupt)
    seen = preview_at(here, **carry, batches=never_read)
    assert 0 < seen.num_done < 36
    assert seen.rate is not None
    assert seen.rate.carried_share == pytest.approx(2 / 3)
    assert seen.costs_left is not None
    assert seen.costs_left["tokens"] == pytest.approx(seen.num_left)
    assert "carried" not in seen.costs_left


def test_preview_refuses_what_the_run_would_refuse(disk: Place, tmp_path: Path) -> None:
    old = replace(disk, uri=f"{disk.uri}/old")
    (old.location / "part-1.parquet").write_bytes(b"")
    with pytest.raises(TableError, match="holds no table but 1 other files"):
        preview_at(old, batches=never_read)
    here = replace(disk, uri=f"{disk.uri}/here")
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        preview_at(here, carry_from=f"{disk.uri}/nothing", batches=never_read)
    toy_run(here, tmp_path)
    with pytest.raises(ArtifactNotFoundError, match="the run is not finished"):
        preview_at(replace(disk, uri=f"{disk.uri}/next"), carry_from=here.uri, batches=never_read)
    other = IDENTITY.model_copy(update={"config": {"words": 4}})
    with pytest.raises(ArtifactMismatchError, match="holds another run"):
        preview_at(here, identity=other, batches=never_read)


def test_preview_of_inputs_that_were_written_again_compares_their_rows(
    disk: Place, tmp_path: Path
) -> None:
    toy_run(disk, tmp_path)
    again = {"rows.parquet": ["1", "3"]}
    seen = preview_at(disk, listing=again)
    assert seen.counts is not None
    assert seen.status is not None
    with pytest.raises(ArtifactMismatchError, match="36 rows there, 35 here"):
        preview_at(disk, listing=again, batches=lambda: [batch_of(ROWS[1:])])

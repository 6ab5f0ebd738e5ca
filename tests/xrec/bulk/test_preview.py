"""What a run would do, before it does anything."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from tests.world.here import Place
from tests.xrec.bulk.test_rules_carry import drive_carrying
from tests.xrec.bulk.test_rules_drive import stopped_after
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.toy_run import FORMAT, batch_of, toy_request, toy_rows
from xrec.bulk import clean_keys
from xrec.bulk.status import Preview, preview
from xrec.errors import DataError, TableError

ROWS = toy_rows()


def never_read() -> Iterator[Any]:
    raise AssertionError("the input was read")


def preview_at(place: Place, **changes: Any) -> Preview:
    """What `toys()` would do at a place."""
    return preview(toy_request(place, **changes))


def test_preview_counts_what_a_plan_would_have_and_writes_nothing(toys):
    seen = preview_at(toys)
    assert not toys.location.exists()
    assert (seen.num_rows, seen.num_left, seen.status, seen.costs_left) == (36, 36, None, None)
    assert seen.num_chunks == toys().run.record.size.num_chunks


def test_preview_counts_rejected_rows_and_refuses_what_the_run_would(disk):
    keys = {"user": [1.5, float("nan"), 2.5], "item": ["a", "b", "c"]}
    bad = clean_keys(pa.table(keys), FORMAT.keys, file="rows", first_line=1)
    seen = preview_at(disk, batches=lambda: [batch_of(ROWS), bad])
    assert (seen.num_rows, seen.rejected) == (36, {"float_id": 2, "nan_id": 1})
    with pytest.raises(DataError, match="there are no rows to do; 3 were rejected, the first at"):
        preview_at(disk, batches=lambda: [bad])
    (disk.location / "photos.zip").write_bytes(b"")
    with pytest.raises(TableError, match=r"other files, such as photos\.zip"):
        preview_at(disk, batches=never_read)


def test_preview_of_a_canary_reads_no_input_and_reckons_by_its_rate(toys):
    toy = toys()
    assert preview_at(toys, batches=never_read).costs_left is None
    progress = toy.drive(max_rows=13)
    before = toys.location.files()
    seen = preview_at(toys, batches=never_read)
    assert toys.location.files() == before
    assert (seen.num_left, seen.measured_at) == (36 - progress.num_rows, None)
    assert seen.costs_left["tokens"] == pytest.approx(3 * seen.num_left)  # three tokens a row
    per_row = progress.costs["seconds"] / progress.num_rows
    assert seen.costs_left["seconds"] == pytest.approx(per_row * seen.num_left)


def test_preview_takes_the_rate_of_another_run_if_its_own_has_none(here):
    other, new, broken = (here.at(name) for name in ("other", "new", "broken"))
    other(num_users=3).drive()
    (broken.location / "manifest.json").write_bytes(b"{}")
    assert preview_at(new, carry_from=broken.uri).costs_left is None
    seen = preview_at(new, carry_from=other.uri)
    assert (seen.costs_left["tokens"], seen.measured_at) == (108, other.uri)
    again = preview_at(other, identity=OTHER)  # another config at the same place
    assert (again.status, again.measured_at) == (None, other.uri)


def test_preview_of_a_run_that_carries_over_takes_the_share_that_was_carried(here):
    """Two rows of three are carried; before anything is done, none is reckoned to be."""
    here().complete()
    settings = {"identity": OTHER, "carry_from": here.uri}
    assert preview_at(here, **settings).costs_left["tokens"] == 108
    toy = here(**settings)
    with pytest.raises(KeyboardInterrupt):
        drive_carrying(toy, stopped_after(3))
    seen = preview_at(here, **settings, batches=never_read)
    assert 0 < seen.num_left < 36
    assert seen.costs_left["tokens"] == pytest.approx(seen.num_left)
    assert "carried" not in seen.costs_left
    elsewhere = preview_at(here.at("new"), carry_from=here.uri)  # three tokens a row that was done
    assert elsewhere.costs_left["tokens"] == pytest.approx(108)
    drive_carrying((whole := here.at("whole"))("a", **settings))  # all of it was carried
    assert preview_at(here.at("new"), carry_from=whole.uri).costs_left is None


def test_preview_of_inputs_that_were_written_again_compares_their_rows(here):
    here().drive()
    again = {"rows.parquet": ["1", "3"]}
    seen = preview_at(here, listing=again)
    assert seen.num_left == 0
    fewer = preview_at(here, listing=again, batches=lambda: [batch_of(ROWS[1:])])
    assert (fewer.status, fewer.num_left) == (None, 35)
    here("a")
    assert preview_at(here, listing=again).num_left == 0  # though another was planned later

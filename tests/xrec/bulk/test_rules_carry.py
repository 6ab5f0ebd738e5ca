"""Rule 11 of xrec.bulk: rows that a published version has are carried over."""

import re
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.xrec.bulk.test_rules_drive import texts_of
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.test_rules_publish import files_of
from tests.xrec.bulk.toy_run import FORMAT, Toy, ToyTask, batch_of, rows_of
from xrec.bulk import Progress, RunRequest, check_output, empty, open_run
from xrec.errors import ArtifactMismatchError, DataError, StorageError, TableError


@dataclass(frozen=True)
class CarryingTask(ToyTask):
    """Finds rows of item `b` no longer good."""

    def why_again(self, earlier: pa.Table) -> pa.Array:
        assert earlier.schema.equals(FORMAT.table_schema)
        return pc.if_else(pc.equal(earlier["item"], "b"), "a b", pa.scalar(None, pa.string()))


def drive_carrying(toy: Toy, pool: Any = None, **changes: Any) -> Progress:
    return toy.drive(pool, toy.make_task(CarryingTask, **changes))


@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_rule_11_good_rows_are_carried_and_the_others_done(toys, rows_per_chunk):
    """To another number of buckets, and to users that the earlier run had not."""
    toys.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
    first = toys("a b odd-1", num_users=6)
    first.complete()
    before = texts_of(first)
    settings = {"identity": OTHER, "rows_per_chunk": rows_per_chunk, "carry_from": toys.uri}
    toy = toys("a b c odd-1", num_users=8, **settings)
    progress = drive_carrying(toy)
    assert (progress.costs["carried"], progress.costs["carried_failed"]) == (12, 6)
    assert (progress.num_ok, progress.failed) == (24, {"odd": 8})
    assert progress.costs["tokens"] == 3 * (24 - 6)
    assert (progress.costs["again: a b"], progress.costs["again: new"]) == (6, 14)
    toy.publish()
    assert rows_of(toy.published()) == toy.rows
    same = {key for key, text in texts_of(toy).items() if before.get(key) == text}
    assert same == {key for key in before if key[1] == "a"}


def test_rule_11_what_happens_to_the_earlier_version_changes_nothing(toys):
    earlier, later = toys.at("earlier"), toys.at("later")
    earlier().complete()
    before = texts_of(earlier())
    toy = later(identity=OTHER, carry_from=earlier.uri)
    empty(earlier.uri, toys.storage)
    earlier.location.delete()
    assert drive_carrying(toy).costs["carried"] == 24
    toy.publish()
    after = texts_of(toy)
    same = {key for key in after if after[key] == before[key]}
    assert same == {key for key in after if key[1] != "b"}
    assert later(identity=OTHER, carry_from=earlier.uri).run.record == toy.run.record
    assert check_output(later.uri, toys.storage) == []


def test_rule_11_rows_of_a_chunk_that_is_cut_after_deaths_are_carried_by_rows(here):
    here("a").complete()
    toy = here("a c", identity=OTHER, carry_from=here.uri)
    progress = drive_carrying(toy, killers=[("u-5", "c")])
    assert (progress.costs["carried"], progress.failed) == (12, {"task_error": 1})
    toy.publish()
    assert rows_of(toy.published(), "failed") == [("u-5", "c")]
    assert rows_of(toy.published()) == toy.rows


def test_rule_11_nothing_is_carried_where_nothing_is_published_or_a_task_cannot(here):
    toy = here(carry_from=here.uri)
    assert drive_carrying(toy).costs["carried"] == 0
    toy.publish()
    other = here(identity=OTHER, carry_from=here.uri)
    assert other.drive().costs["carried"] == 0
    other.publish()
    assert set(texts_of(other).values()).isdisjoint(texts_of(toy, 0).values())


def test_rule_11_table_of_other_columns_is_refused_unless_it_is_this_output(here):
    first = here()
    first.complete()
    wider = replace(FORMAT, ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int64())]))

    def planned(uri: str, format: Any = wider) -> Any:
        rows = [batch_of(first.rows)]
        return open_run(RunRequest(uri, OTHER, format, lambda: rows, carry_from=here.uri))

    with pytest.raises(ArtifactMismatchError, match="num_tokens: int32 there, int64 here"):
        planned(f"{here.uri}/other")
    assert planned(here.uri).record.num_rows == 36


def test_rule_11_version_that_is_not_sound_or_cannot_be_read_is_refused(toys):
    toys().complete()
    settings = {"identity": OTHER, "carry_from": toys.uri}
    with toys.patch.context() as patch:
        patch.setattr("xrec.storage.delta.digest_of", lambda files: "another")
        with pytest.raises(TableError, match="has other files than its writer meant"):
            toys.at("later")(**settings)
    (file,) = (toys.location / path for path in files_of(toys()))
    for spoil in (lambda: file.write_bytes(b"spoilt" * 999), file.delete):
        spoil()
        with pytest.raises((DataError, StorageError), match=re.escape(toys.uri)):
            toys.at("later")(**settings)

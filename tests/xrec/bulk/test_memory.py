"""What a run holds and reads does not grow with its rows, its chunks, or what was done before."""

import tracemalloc
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.xrec.bulk.test_rules_carry import CarryingTask
from tests.xrec.bulk.test_rules_drive import stopped_after, texts_of
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.toy_run import FORMAT, Toy, rows_of
from xrec.bulk import RowFormat, Summary, Survey
from xrec.bulk.parts import final_rows
from xrec.bulk.runs.plan import Plan, write_plan
from xrec.bulk.runs.result import ResultFolder
from xrec.bulk.runs.spill import Spill
from xrec.bulk.takedown import Entry, Takedowns
from xrec.errors import StorageError
from xrec.storage.forgotten import Forgotten
from xrec.storage.local import LocalLocation

KEYS = pa.schema([pa.field(name, pa.string(), nullable=False) for name in FORMAT.keys])


def test_rows_of_many_threads_are_sorted_in_little_memory(monkeypatch):
    """As on a machine of many cores; the product has 1 GB for 1e9 rows."""
    for name, value in {"_MEMORY": "24MB", "_THREADS": 64, "_BYTES_AT_ONCE": 2**18}.items():
        monkeypatch.setattr(f"xrec.bulk.runs.spill.{name}", value)
    num_rows = 400_000

    def batches() -> Iterator[pa.Table]:
        for start in range(0, num_rows, 50_000):
            numbers = range(start, start + 50_000)
            users = [f"user-{number % 70_001}" for number in numbers]
            yield pa.table([users, [f"item-{number}" for number in numbers]], KEYS)

    spill = Spill(batches(), KEYS)
    items, last = set(), (-1, "", "")
    for chunk in spill.chunks(1024, 512):
        rows = list(zip(*chunk.select(["bucket", *FORMAT.keys]).to_pydict().values(), strict=True))
        assert rows == sorted(rows)
        assert rows[0] > last
        last = rows[-1]
        items.update(chunk["item"].to_pylist())
    spill.delete()
    assert spill.num_rows == len(items) == num_rows


def test_lack_of_room_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr("xrec.bulk.runs.spill._MEMORY", "1MB")
    ids = [str(number) for number in range(100_000)]
    with pytest.raises(StorageError, match="set TMPDIR to a folder on a larger disk"):
        Spill([pa.table([ids, ids], KEYS)], KEYS)


def test_wide_rows_are_carried_over_in_less_memory_than_they_take(here):
    """The product has 1 GB, and 9 GB of earlier rows are 15 million."""
    here.patch.setattr("xrec.bulk.runs.spill._MEMORY", "16MB")
    settings = {"num_users": 2000, "rows_per_chunk": 500}
    first = here("a c", **settings)
    first.drive(task=first.make_task(mark="x" * 8_000))
    first.publish()
    toy = here("a c d", identity=OTHER, carry_from=here.uri, **settings)
    progress = toy.drive(task=toy.make_task(CarryingTask))
    assert (progress.costs["carried"], progress.num_ok) == (4000, 6000)


@pytest.mark.parametrize("sizes", [(1, 200), (200, 1), (7, 7)])
def test_each_row_gets_the_earlier_one_of_its_keys_however_many_buckets_there_are(here, sizes):
    """Tables of few and many buckets, read and planned by small ranges, and in several files."""
    here.in_parts(6000)
    here.patch.setattr("xrec.bulk.runs.spill._BYTES_AT_ONCE", 1)
    here.patch.setattr("xrec.bulk.runs.spill._ROWS_AT_ONCE", 16)
    here.patch.setattr("xrec.bulk.earlier._ROWS_AT_ONCE", 5)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", sizes[0])
    first = here("a c odd-1", num_users=90)
    first.complete()
    before = {
        (row["user"], row["item"]): row
        for row in first.published().dataset(status=None).to_table().to_pylist()
    }
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", sizes[1])
    run = here("a d odd-1", num_users=120, identity=OTHER, carry_from=here.uri).run
    assert {first.run.record.num_buckets, run.record.num_buckets} != {1}
    plan, found = run.passes()[0].plan, {}
    for chunk in range(run.record.size.num_chunks):
        for row in plan.rows(chunk).to_pylist():
            found[row["user"], row["item"]] = row["earlier"]
    assert len(found) == 360
    assert found == {keys: before.get(keys) for keys in found}


def test_memory_of_writing_a_plan_does_not_grow_with_its_chunks(disk, monkeypatch):
    monkeypatch.setattr("xrec.bulk.runs.plan._PART_BYTES", 2**14)
    rows = pa.table({"bucket": pa.array([0], pa.int32()), "user": ["u"], "item": ["i"]})

    def peak(num_chunks: int) -> int:
        folder = disk.location / str(num_chunks)
        tracemalloc.start()
        size = write_plan(folder, (rows for _ in range(num_chunks)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size.num_chunks == size.num_rows == num_chunks
        assert Plan(folder, size).index["first"].to_pylist() == list(range(num_chunks))
        return most

    assert peak(8_000) < 1.5 * peak(2_000)


class CountingFormat(RowFormat):
    """Counts the rows that are compared with those of a chunk."""

    num_compared = 0

    def among(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        type(self).num_compared += rows.num_rows
        return super().among(rows, others)


def test_chunk_is_compared_only_with_the_retried_rows_beside_it(here):
    toy = here("a odd-1 odd-2", num_users=80, rows_per_chunk=10)
    toy.complete()
    toy.complete(retry=["odd"])
    toy.heal()
    toy.complete(retry=["odd"])
    format = CountingFormat(**{name: getattr(FORMAT, name) for name in FORMAT.__dataclass_fields__})
    num_chunks, passes = toy.run.record.size.num_chunks, toy.run.passes()
    assert (len(passes), num_chunks) == (3, 27)
    tables, summaries = zip(*final_rows(format, passes, 0, num_chunks - 1), strict=True)
    assert (
        pa.concat_tables(tables).to_pylist()
        == (toy.published().dataset(status=None).to_table(columns=FORMAT.table_schema.names))
        .sort_by([(name, "ascending") for name in ("bucket", *FORMAT.keys)])
        .to_pylist()
    )
    assert sum(summaries, Summary()).num_ok == 240
    # Each chunk of 10 rows is beside at most three of a retry.
    assert CountingFormat.num_compared < 2 * 27 * 30


def test_publishing_lists_results_as_often_for_many_files_as_for_one(here):
    def num_listings(part_bytes: int) -> int:
        toys = here.at(f"of {part_bytes}")
        toys.in_parts(part_bytes)
        toy, count = toys("a odd-1", num_users=60), 0
        toy.drive()
        sizes = LocalLocation.sizes

        def counted(location: LocalLocation) -> dict[str, int]:
            nonlocal count
            count += location.name == "results"
            return sizes(location)

        with here.patch.context() as patch:
            patch.setattr(LocalLocation, "sizes", counted)
            toy.publish()
        assert rows_of(toy.published()) == toy.rows
        assert (len(toy.published().log.files(0)) == 1) == (part_bytes > 10**6)
        return count

    assert num_listings(4000) == num_listings(10**9)


@pytest.fixture
def opened(monkeypatch):
    """The results whose footers are read."""
    names, summary = [], ResultFolder.summary

    def counted(results: ResultFolder, name: str) -> Summary | None:
        names.append(name)
        return summary(results, name)

    monkeypatch.setattr(ResultFolder, "summary", counted)
    return names


def counted_anew(toy: Toy) -> tuple[list[int], Summary]:
    """What the results themselves say."""
    for name in toy.run.folder.files():
        if name.endswith("counted.json"):
            (toy.run.folder / name).delete()
    survey = Survey(toy.run)
    return [len(done) for done in survey.done], survey.summary


def test_driver_that_goes_on_opens_no_result_that_was_counted(here, opened):
    toy = here("a odd-1 b")
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(3))
    opened.clear()
    survey = Survey(toy.run)
    assert (opened, survey.done[0].tolist()) == ([], [0, 1, 2])
    expected = counted_anew(toy)
    assert ([3], survey.summary) == expected
    assert len(opened) == 3
    toy.drive(retry=["odd"])
    opened.clear()
    survey = Survey(toy.run)
    assert (opened, len(survey.passes)) == ([], 2)
    assert ([len(done) for done in survey.done], survey.summary) == counted_anew(toy)


@pytest.mark.parametrize("what", ["garbage", "gone", "doubted", "second", "older"])
def test_counts_that_do_not_fit_the_results_are_counted_anew(here, opened, what):
    toy = here("a odd-1 b")
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(2))
    folder = toy.run.folder
    older = (folder / "counted.json").read_bytes()
    toy.drive()
    if what == "garbage":
        (folder / "counted.json").write_bytes(b'{"chunks": "zz", "second": [], "summary": {}}')
    elif what == "gone":
        (folder / "results" / "0000001.parquet").delete()
    elif what == "doubted":
        (folder / "results" / "0000001.parquet.unreadable").write_bytes(b"")
    elif what == "second":
        data = (folder / "results" / "0000001.parquet").read_bytes()
        (folder / "results" / "0000001~1.parquet").write_bytes(data)
    else:
        (folder / "counted.json").write_bytes(older)
    opened.clear()
    survey = Survey(toy.run)
    assert ([len(done) for done in survey.done], survey.summary) == counted_anew(toy)
    assert survey.is_done == (what not in ("gone", "doubted"))
    assert "0000003.parquet" in opened
    toy.complete()
    assert rows_of(toy.published()) == toy.rows
    assert len(texts_of(toy)) == 24


def test_users_are_hashed_once_for_a_key_however_many_were_forgotten():
    """Entries of 300 calls of forget, and a few under the key of another workspace."""
    people = [Forgotten(b"a" * 32), Forgotten(b"b" * 32)]
    entries = {}
    for number in range(1, 331):
        by = people[number > 300]
        hashes = (by.hash_of(f"gone-{number}"),)
        entries[number] = Entry(users=hashes, key=by.key.hex(), reason="forgotten", at="")
    taken = Takedowns(entries)
    assert sorted(each.key for each in taken.forgotten) == [b"a" * 32, b"b" * 32]
    rows = pa.table({"user_id": [f"gone-{n}" for n in (1, 300, 330, 331)] + ["here"]})
    assert taken.without(rows)["user_id"].to_pylist() == ["gone-331", "here"]
    assert [taken.is_forgotten(name) for name in ("gone-7", "gone-310", "gone-331")] == [
        True,
        True,
        False,
    ]


def test_phrases_are_found_by_their_first_word():
    """Among many phrases each is found, also those that begin with no letter or have none."""
    phrases = ["happy ending", "$5 tea", "!!", "\u00e9t\u00e9", *(f"word{n} x" for n in range(300))]
    taken = Takedowns(
        {n: Entry(phrase=phrase, reason="no", at="") for n, phrase in enumerate(phrases, 1)}
    )
    for number, phrase in enumerate(phrases, 1):
        assert taken.of_texts(["calm", f"so {phrase.upper()}"]) == number
    assert taken.of_texts(["happy", "ending", "word7x", "5 tea"]) is None
    assert taken.of_texts(["!! word8 x", "happy ending"]) == 1
    texts = pa.table({"explanation": ["word3 x", "word3", None]})
    assert taken.without(texts)["explanation"].to_pylist() == ["word3", None]

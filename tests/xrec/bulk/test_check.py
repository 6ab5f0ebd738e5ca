"""What check_output finds in an output, and that it writes nothing."""

from datetime import timedelta

import deltalake
import pyarrow as pa
import pytest

from tests.world.here import Place
from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.test_rules_drive import kill, stopped_after
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.test_rules_publish import files_of
from tests.xrec.bulk.toy_run import Toy
from xrec.bulk import check_output, empty
from xrec.bulk.status import Finding


def found_by(place: Place) -> list[Finding]:
    """What the check finds; see that it changes no file."""
    before = {name: (place.location / name).read_bytes() for name in place.location.files()}
    findings = check_output(place.uri, place.storage)
    assert before == {name: (place.location / name).read_bytes() for name in place.location.files()}
    return findings


def only(place: Place, severity: str) -> str:
    """The text of the one finding, which has this severity."""
    (finding,) = found_by(place)
    assert finding.severity == severity
    return finding.what


def finished(toys: Toys) -> Toy:
    """A run that is published twice, the second time with a retry."""
    toy = toys("a odd-1")
    toy.complete()
    toy.heal()
    toy.complete(retry=["odd"])
    return toy


def test_check_of_nothing_and_of_other_files_says_so(place):
    assert "holds no table and no run; check the URI" in only(place, "error")
    (place.location / "photos.zip").write_bytes(b"x")
    assert "holds other files, such as photos.zip" in only(place, "error")


def test_check_of_missing_and_changed_files_names_one(toys):
    (path,) = files_of(finished(toys))
    file = toys.location / path
    for spoil in (lambda: file.write_bytes(b"x"), file.delete):
        spoil()
        text = only(toys, "error")
        assert f"version 1 lacks 1 of its files, or they have another size: {path}" in text
        assert "run the job again, which goes back to a version that is whole" in text


def test_check_of_a_table_that_others_wrote_to_is_an_error_only_if_it_is_theirs(here):
    finished(here)
    deltalake.DeltaTable(here.uri).delete("bucket = 0")
    assert found_by(here) == []
    empty(here.uri)
    (here.location / "_delta_log" / "00000000000000000003.json").write_bytes(b"{")
    assert "the Delta log cannot be used" in only(here, "error")
    other = here.at("other")
    deltalake.write_deltalake(other.uri, pa.table({"a": [1]}))
    assert "holds a Delta table that this xrec does not publish to" in only(other, "error")


def test_check_of_a_run_at_work_and_of_one_that_ended_says_what_is_left(toys):
    toy, during, pool = toys(), [], stopped_after(2)
    stop = pool.before
    pool.before = lambda chunk: (during.extend(found_by(toys)), stop(chunk))
    with pytest.raises(KeyboardInterrupt):
        toy.drive(pool)
    assert during == []
    text = only(toys, "warning")
    assert "12 of 36 rows done: it was stopped before it was done; run it again" in text
    kill(toy, 1, term=timedelta(0))
    assert "its driver gives no sign of life" in only(toys, "warning")
    toy.drive()
    assert "36 of 36 rows done: it is not what is published" in only(toys, "warning")
    toys("b", identity=OTHER).complete()
    assert found_by(toys) == []  # the other run came after it


def test_check_of_a_plan_that_lacks_a_file_says_so(here):
    toy = here()
    toy.drive(max_rows=7)
    (toy.run.folder / "plan" / "part-00000.arrow").delete()
    findings = found_by(here)
    assert [finding.severity for finding in findings] == ["warning", "warning"]
    assert any("its plan lacks files" in finding.what for finding in findings)


@pytest.mark.usefixtures("small_windows")
def test_check_of_wrong_bounds_and_of_a_broken_footer_names_the_file(here):
    toy = here("a b", num_users=30)
    toy.complete()
    assert found_by(here) == []
    (path,) = files_of(toy)
    (log,) = [each for each in here.location.files() if each.startswith("_delta_log/")]
    entry = here.location / log
    said = entry.read_text()
    entry.write_bytes(said.replace('\\"bucket\\": 0', '\\"bucket\\": 5').encode())
    assert entry.read_text() != said
    assert f"such as {path}, cannot be read or have buckets outside" in only(here, "error")
    entry.write_bytes(said.encode())
    data = (here.location / path).read_bytes()
    (here.location / path).write_bytes(data[:-20] + bytes(20))
    assert f"such as {path}, cannot be read" in only(here, "error")

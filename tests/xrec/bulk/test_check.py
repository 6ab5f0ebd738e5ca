"""What check_output finds in an output, and that it writes nothing."""

import json
import os
from datetime import timedelta
from pathlib import Path

import deltalake
import pytest

from tests.xrec.bulk.test_rules_carry import run_of
from tests.xrec.bulk.test_rules_drive import DriverDied, die_after
from tests.xrec.bulk.toy_run import Toy, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import Finding, RunState, check_output, compact, read_state
from xrec.bulk.work import Work


def found_by(place: Place) -> list[Finding]:
    """What the check finds; see that it changes no file."""
    before = {name: (place.location / name).read_bytes() for name in place.location.files()}
    findings = check_output(place.uri, place.storage)
    after = {name: (place.location / name).read_bytes() for name in place.location.files()}
    assert before == after
    return findings


def only_error(place: Place) -> str:
    """The text of the one error that the check finds."""
    return only([finding for finding in found_by(place) if finding.severity == "error"], "error")


def only(findings: list[Finding], severity: str) -> str:
    """The text of the one finding, which has this severity."""
    (finding,) = findings
    assert finding.severity == severity
    assert finding.mend
    return f"{finding.what}; {finding.mend}"


def publish(toy: Toy, version: int | None = None) -> None:
    """Write what the check reads of a manifest, and the pin of its version."""
    version = toy.run.table.newest_version() if version is None else version
    toy.run.table.pin(f"published-{version}", version)
    (toy.run.table.location / "manifest.json").write_bytes(
        json.dumps({"version": version}).encode()
    )


def finished(place: Place, folder: Path, items: tuple[str, ...] = ("a", "odd-1")) -> Toy:
    """A run that is finished and published."""
    toy = toy_run(place, folder, items)
    toy.drive()
    publish(toy)
    return toy


def test_check_of_a_finished_run_finds_nothing(place: Place, tmp_path: Path) -> None:
    finished(place, tmp_path)
    assert found_by(place) == []


def test_check_of_nothing_and_of_other_files_says_so(disk: Place) -> None:
    assert "holds no files; check the URI" in only(found_by(disk), "error")
    for name in ("_SUCCESS", "part-00000.parquet"):
        (disk.location / name).write_bytes(b"x")
    text = only(found_by(disk), "error")
    assert (
        "holds no run, but 2 files (_SUCCESS, part-00000.parquet): the output of an older" in text
    )


def test_check_of_a_run_without_its_plan_says_what_is_left(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    (disk.location / "_xrec/plan.json").delete()
    text = only(found_by(disk), "error")
    assert "plan.json: the plan is missing, and the table has data: " in text
    for name in disk.location.files():
        if not name.startswith("_delta_log/"):
            (disk.location / name).delete()
    assert "its plan not finished" in only(found_by(disk), "warning")
    assert toy.run.plan.record.num_rows == 24


def test_check_of_a_plan_that_lost_a_part_names_it(place: Place, tmp_path: Path) -> None:
    toy = finished(place, tmp_path)
    (place.location / toy.run.plan.record.folder / "part-00000.parquet").delete()
    assert "part-00000.parquet is missing" in only(found_by(place), "error")
    (place.location / "_xrec/plan.json").write_bytes(b'{"layout": 7}')
    assert "not a plan that this xrec reads" in only(found_by(place), "error")


def test_check_of_the_table_of_another_run_names_both(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    entry = disk.location / "_delta_log/00000000000000000000.json"
    entry.write_bytes(entry.read_bytes().replace(toy.run.plan.run.encode(), b"another-run"))
    text = only(found_by(disk), "error")
    assert f"holds the table of run another-run, expected run {toy.run.plan.run}" in text


def test_check_of_a_table_that_others_wrote_to_names_them_and_the_last_good_version(
    disk: Place, tmp_path: Path
) -> None:
    toy = finished(disk, tmp_path)
    version = toy.run.table.newest_version()
    for _ in range(2):
        deltalake.DeltaTable(disk.uri).optimize.compact()
        deltalake.DeltaTable(disk.uri).delete("bucket = 0")
    findings = found_by(disk)
    assert findings[0].severity == "error"
    assert f"version {version + 1} was committed by another program" in findings[0].what
    assert f"read version {version}, and give another output URI" in findings[0].mend
    assert [finding.severity for finding in findings[1:]] == ["note"]  # the other program's files
    assert "are in neither the newest version nor a pinned one" in findings[1].what


def test_check_of_a_table_that_cannot_be_opened_says_so(disk: Place, tmp_path: Path) -> None:
    finished(disk, tmp_path)
    (disk.location / "_delta_log").delete()
    assert "holds no table" in only(found_by(disk), "error")


def test_check_of_missing_and_changed_files_names_them(place: Place, tmp_path: Path) -> None:
    toy = finished(place, tmp_path)
    paths = sorted(toy.snapshot().files()["path"].to_pylist())
    (place.location / paths[0]).delete()
    (place.location / paths[1]).write_bytes(b"x")
    text = only(found_by(place), "error")
    assert f"of {len(paths)} files of version" in text
    assert f"1 are missing and 1 have another size: 2 files ({paths[0]}, {paths[1]})" in text


def test_check_counts_files_that_no_kept_version_has(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    sizes = toy.snapshot().files()["num_bytes"].to_pylist()
    compact(toy.run, holder="upkeep")
    pin = disk.location / "_xrec/pins"
    assert [finding.severity for finding in found_by(disk)] == ["warning"]  # the manifest
    pin.delete()
    publish(toy)
    text = only(found_by(disk), "note")
    assert f"of {sum(sizes)} bytes are in neither the newest version nor a pinned one" in text
    (disk.location / "_xrec/conditional-write-1").write_bytes(b"123")
    (disk.location / "_xrec/plan/other/part-00000.parquet").write_bytes(b"1234")
    assert any(
        "2 files (_xrec/conditional-write-1, _xrec/plan/other/part-00000.parquet) of 7 bytes"
        in finding.what
        for finding in found_by(disk)
    )


def test_check_of_a_manifest_that_is_missing_old_or_bad_says_so(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    toy.drive()
    assert "manifest.json is missing" in only(found_by(disk), "warning")
    first = toy.run.table.newest_version()
    publish(toy)
    toy.heal()
    toy.drive(retry=["odd"])
    last = toy.run.table.newest_version()
    toy.run.table.take_over("someone")  # finishes nothing
    text = only(found_by(disk), "warning")
    assert f"manifest.json names version {first}, and version {last} is finished too" in text
    (disk.location / "manifest.json").write_bytes(json.dumps({"version": last}).encode())
    assert any(f"{last}, which no pin keeps" in finding.what for finding in found_by(disk))
    for content, text in (
        (b"{}", "KeyError"),
        (b"{", "JSONDecodeError"),
        (b'{"version": 99}', "99"),
    ):
        (disk.location / "manifest.json").write_bytes(content)
        assert text in found_by(disk)[0].what


def test_check_of_an_unfinished_run_tells_whether_a_driver_is_at_work(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    assert "no driver has committed any of 36 rows" in only(found_by(disk), "note")
    during: list[Finding] = []

    def interrupt(work: Work) -> None:
        during.extend(check_output(disk.uri))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(toy.pool(before=interrupt), holder="host-3")
    assert "host-3 is at work: " in only(during, "note")
    assert "36 of 36 rows are left" in during[0].what
    assert "host-3 ended, and 36 of 36 rows are left" in only(found_by(disk), "warning")
    monkeypatch.setattr("xrec.bulk.ledger.TERM", timedelta(0))
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_SECONDS", 0.0)
    with pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, monkeypatch)), holder="host-4")
    findings = {finding.severity: finding.what for finding in found_by(disk)}
    assert "host-4 died, or lost its store or cluster" in findings["warning"]


def test_check_of_a_retry_that_was_interrupted_says_which(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)

    def interrupt(work: Work) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(toy.pool(before=interrupt), retry=["odd"], holder="host-3")
    assert "host-3 ended, and retry 1 of odd is not finished" in only(found_by(disk), "warning")


def test_check_of_rows_that_do_not_add_up_says_so(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    writer = toy.run.table.take_over("someone")
    file = toy.snapshot().files().slice(0, 1).to_pylist()[0]
    writer.commit(removes=[file["path"]])  # as no driver of a run would
    left = 24 - file["num_rows"]
    text = only_error(disk)
    assert f"the run's state counts 24 rows, the table has {left}" in text
    _, state = read_state(toy.run.table, writer.version)
    assert state is not None
    fewer = {"num_ok": left - state.num_failed, "num_ok_rows": left - state.num_failed}
    writer.commit(metadata=state.model_copy(update=fewer).metadata())
    text = only_error(disk)
    assert f"is finished, but has {left} rows of 24 that were planned" in text


def test_check_of_a_run_that_carries_looks_at_the_earlier_one(disk: Place) -> None:
    earlier = run_of(disk, "earlier", ["a"])
    earlier.drive()
    publish(earlier)
    later = Place(f"{disk.uri}/later", disk.storage)
    run_of(disk, "later", ["a", "b"], carry_from="earlier")
    assert "no driver has committed" in only(found_by(later), "note")
    text = only(check_output(f"{disk.uri}/earlier"), "note")
    assert "is kept by the pin carry-" in text
    (disk.location / "earlier").delete()
    findings = found_by(later)
    assert [finding.severity for finding in findings] == ["error", "note"]
    assert "rows are to be carried over from version" in findings[0].what


def test_check_of_a_pin_of_a_version_that_is_gone_says_so(disk: Place, tmp_path: Path) -> None:
    finished(disk, tmp_path)
    (disk.location / "_xrec/pins/mine.json").write_bytes(b"99")
    text = only(found_by(disk), "warning")
    assert "pin mine: its version cannot be read" in text
    assert os.path.join("_xrec", "pins", "mine.json") in text


def test_check_of_a_state_of_another_xrec_says_so(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    monkeypatch.setattr(RunState, "metadata", lambda state: {"bulk": {"state": "asleep"}})
    toy.drive()
    assert "states the run as this xrec cannot read it" in only(found_by(disk), "error")

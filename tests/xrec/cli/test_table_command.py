"""`xrec table status URI`, `check`, `rollback`, `empty`, and `xrec export`, of a toy job."""

import csv

import pyarrow as pa
import pytest
import yaml

from tests.world.here import PoolHere, TaskOf, plan_of
from tests.world.program import refused, said, xrec
from tests.xrec.bulk.toy_run import rows_of, toy_run
from xrec import bulk
from xrec.errors import ConfigError


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_status_of_a_canary_and_of_the_published_run(place, s3, tmp_path):
    toy = toy_run(place, tmp_path, ["a", "odd-1", "b"])
    progress = toy.drive(max_rows=13)
    command = ["table", "status", place.uri]
    command += [f"storage.{name}={value}" for name, value in s3.keys.items()]
    out = said(*command)
    assert (
        "\nphase: stopped\nnote: it was stopped before it was done; run the job again to continue"
        in out
    )
    status = yaml.safe_load(out)
    left = 36 - progress.num_rows
    counts = {"ok": progress.num_ok, "failed": progress.num_failed, "left": left}
    assert counts.items() <= status["rows"].items()
    assert status["published"] is None
    toy.complete()
    status = yaml.safe_load(said(*command))
    assert (status["phase"], status["progress"]["failed"]) == ("published", {"odd": 12})
    assert (status["published"]["version"], status["published"]["is_this_run"]) == (0, True)


def test_check_reports_what_is_wrong_and_exits_1(disk, tmp_path):
    toy = toy_run(disk, tmp_path)
    toy.drive(max_rows=13)
    command = ["table", "check", disk.uri]
    assert said(*command).startswith("warning: ")  # unfinished
    toy.complete()
    assert said(*command) == f"{disk.uri}: nothing is wrong\n"
    (name,) = (each for each in disk.location.sizes() if each.startswith("part-"))
    (disk.location / name).delete()
    code, out, _ = xrec(*command)
    assert (code, out.startswith("error: "), name in out) == (1, True, True)


def test_rollback_and_empty_report_the_version_they_make(disk, tmp_path):
    first = toy_run(disk, tmp_path, ["a"])
    first.complete()
    toy_run(disk, tmp_path, ["b", "c"]).complete()
    out = said("table", "rollback", disk.uri, "--version", "0")
    assert out == f"{disk.uri}: version 2 has the rows of version 0\n"
    assert rows_of(first.published()) == first.rows
    assert said("table", "empty", disk.uri).startswith(f"{disk.uri}: version 3 has no rows")
    assert refused("table", "rollback", disk.uri, "--version", "9").exit_code == 1


@pytest.mark.parametrize("command", ["status", "check", "empty"])
def test_unknown_key_or_half_of_a_pair_of_keys_is_refused(command, disk):
    assert isinstance(refused("table", command, disk.uri, "pairs.kind=split"), ConfigError)
    secret = "storage.secret_access_key=wJalrXUtnFEMI"
    code, out, err = xrec("table", command, disk.uri, secret, "--debug")
    assert (code, "wJalr" in out + err) == (2, False)


def test_command_on_a_missing_table_is_refused(disk, tmp_path):
    (tmp_path / "project.yaml").write_text("workspace: here\n")
    for command in (
        ("status", disk.uri),
        ("status", tmp_path / "project.yaml"),
        ("rollback", disk.uri, "--version", "0"),
        ("empty", disk.uri),
    ):
        assert refused("table", *command).exit_code == 1


def test_export_writes_the_chosen_columns_and_reports_the_rows(disk, tmp_path):
    toy_run(disk, tmp_path, ["a", "odd-1"]).complete()  # 12 rows that succeeded, 12 that failed
    target = tmp_path / "plain"
    command = ["export", disk.uri, "--to", str(target)]
    assert xrec(*command, "--columns", "words")[0] == 2
    assert not target.exists()
    out = said(*command, "--format", "csv", "--columns", "user, text")
    assert out.count(": 12 rows of version ") == 1
    rows = [row for file in target.glob("*.csv") for row in csv.DictReader(file.open(newline=""))]
    assert len(rows) == 12
    assert set(rows[0]) == {"user", "text"}


def test_takedown_is_made_listed_and_lifted(disk, tmp_path):
    uri = disk.uri
    rows = pa.table({"user_id": ["u1", "u1", "u2"], "item_id": ["a", "b", "a"]})
    format = bulk.RowFormat(("user_id", "item_id"), pa.schema([("n", pa.int64())]), pa.schema([]))
    run = plan_of(uri, "explanations", format, rows)

    def do(rows: pa.Table) -> bulk.Outcome:
        ok = rows.append_column("n", pa.array([1] * len(rows)))
        return bulk.Outcome(ok, format.failed_schema.empty_table())

    counts = {"explanations": 3}
    bulk.complete(run, PoolHere(), lambda: TaskOf(do), "explanations", lambda _: (counts, {}))

    def takedown(*options: object) -> tuple[int, str]:
        code, out, err = xrec("table", "takedown", uri, *options)
        return code, out.removeprefix(f"{uri}: ") or err

    assert takedown() == (0, "nothing is taken down\n")
    elsewhere = xrec("table", "takedown", tmp_path / "typo", "--user", "u1", "--reason", "no")
    assert (elsewhere[0], "version 0: there was no table before" in elsewhere[1]) == (0, True)
    pair = ("--user", "u1", "--item", "a", "--reason", "no")
    assert takedown(*pair) == (0, "takedown 1: version 1: removed 1 rows\n")
    nowhere = takedown("--item", "none", "--reason", "no")
    assert nowhere == (0, "takedown 2: version 2: no row matched\n")
    assert takedown("--lift", 1, "--reason", "yes") == (0, "takedown 1 is lifted\n")
    listed = [line.partition("+00:00  ")[2] for line in takedown()[1].splitlines()]
    assert listed == ["u1 a (lifted): no", "none: no", "lifts 1: yes"]
    for options in (("--item", "a"), ("--reason", "no"), (*pair, "--phrase", "x"), ("--lift", 2)):
        assert refused("table", "takedown", uri, *options).code == "bad_takedown"
    (disk.location / "_xrec" / "takedowns" / "000001.json").delete()
    restarted = takedown("--restart", "--reason", "no copy")
    assert restarted == (0, "the list continues with number 5\n")
    out = said("table", "history", uri)
    assert len(out.splitlines()) == 4
    assert all(f"takedown of {number}" in out for number in (0, 1))

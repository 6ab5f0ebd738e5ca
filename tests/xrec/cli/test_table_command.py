"""`xrec table status URI`, `check`, `rollback`, `empty`, and `xrec export`, of a toy job."""

import csv
from dataclasses import replace

import pytest
import yaml

from tests.world.program import refused, said, xrec
from tests.xrec.bulk.toy_run import FORMAT, rows_of, toy_run
from xrec.errors import ConfigError


def test_status_of_a_canary_and_of_the_published_run(disk, tmp_path):
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "b"])
    progress = toy.drive(max_rows=13)
    status = yaml.safe_load(said("table", "status", disk.uri))
    counts = {"ok": progress.num_ok, "failed": progress.num_failed, "left": 36 - progress.num_rows}
    assert counts.items() <= status["rows"].items()
    assert (status["phase"], status["published"]) == ("stopped", None)
    toy.complete()
    status = yaml.safe_load(said("table", "status", disk.uri))
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
    for spoil in (lambda: (disk.location / name).write_bytes(b"x"), (disk.location / name).delete):
        spoil()
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


def test_export_writes_the_chosen_columns_and_reports_the_rows(disk, tmp_path):
    toy_run(disk, tmp_path, ["a", "odd-1"]).complete()  # 12 rows that succeeded, 12 that failed
    target = tmp_path / "plain"
    command = ("export", disk.uri, "--to", target, "--format", "csv", "--columns", "user, text")
    out = said(*command)
    assert out.count(": 12 rows of version ") == 1
    rows = [row for file in target.glob("*.csv") for row in csv.DictReader(file.open(newline=""))]
    assert len(rows) == 12
    assert set(rows[0]) == {"user", "text"}


def test_takedown_is_made_listed_and_lifted(disk, tmp_path):
    uri, by_ids = disk.uri, replace(FORMAT, keys=("user_id", "item_id"))
    toy = toy_run(disk, tmp_path, "ab", num_users=2, format=by_ids)
    toy.complete(task=toy.make_task(format=by_ids))

    def takedown(*options: object) -> tuple[int, str]:
        code, out, err = xrec("table", "takedown", uri, *options)
        return code, out.removeprefix(f"{uri}: ") or err

    assert takedown() == (0, "nothing is taken down\n")
    elsewhere = xrec("table", "takedown", tmp_path / "typo", "--user", "u1", "--reason", "no")
    assert (elsewhere[0], "version 0: there was no table before" in elsewhere[1]) == (0, True)
    pair = ("--user", "u-1", "--item", "a", "--reason", "no")
    assert takedown(*pair) == (0, "takedown 1: version 1: removed 1 rows\n")
    nowhere = takedown("--item", "none", "--reason", "no")
    assert nowhere == (0, "takedown 2: version 2: no row matched\n")
    assert takedown("--lift", 1, "--reason", "yes") == (0, "takedown 1 is lifted\n")
    listed = [line.partition("+00:00  ")[2] for line in takedown()[1].splitlines()]
    assert listed == ["u-1 a (lifted): no", "none: no", "lifts 1: yes"]
    for options in (("--item", "a"), ("--reason", "no"), (*pair, "--phrase", "x"), ("--lift", 2)):
        assert refused("table", "takedown", uri, *options).code == "bad_takedown"
    (disk.location / "_xrec" / "takedowns" / "000001.json").delete()
    restarted = takedown("--restart", "--reason", "no copy")
    assert restarted == (0, "the list continues with number 5\n")
    out = said("table", "history", uri)
    assert len(out.splitlines()) == 4
    assert all(f"takedown of {number}" in out for number in (0, 1))

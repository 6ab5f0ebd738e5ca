"""`xrec table status URI`, `check`, `rollback`, `empty`, and `xrec export`, of a toy job."""

import csv

import pyarrow as pa
import pytest
import yaml

from tests.world.here import Place, PoolHere, TaskOf, plan_of
from tests.world.program import refused, said, xrec
from tests.xrec.bulk.toy_run import rows_of, toy_run
from xrec import bulk
from xrec.errors import ConfigError


def storage_keys(place: Place) -> list[str]:
    """What a user types who has no AWS variables."""
    storage = place.storage
    if storage.endpoint_url is None:
        return []
    return [
        f"storage.endpoint_url={storage.endpoint_url}",
        f"storage.access_key_id={storage.access_key_id.get_secret_value()}",
        f"storage.secret_access_key={storage.secret_access_key.get_secret_value()}",
    ]


def test_status_of_a_canary_and_of_the_published_run(place, tmp_path):
    toy = toy_run(place, tmp_path, ["a", "odd-1", "b"])
    progress = toy.drive(max_rows=13)
    command = ["table", "status", place.uri, *storage_keys(place)]
    out = said(*command)
    assert (
        "\nphase: stopped\nnote: it was stopped before it was done; run the job again to continue"
        in out
    )
    left = 36 - progress.num_rows
    told = yaml.safe_load(out)
    counts = {"ok": progress.num_ok, "failed": progress.num_failed, "left": left}
    assert counts.items() <= told["rows"].items()
    assert told["published"] is None
    toy.complete()
    code, out, _ = xrec(*command)
    told = yaml.safe_load(out)
    assert (code, told["phase"], told["progress"]["failed"]) == (0, "published", {"odd": 12})
    assert (told["published"]["version"], told["published"]["is_this_run"]) == (0, True)


def test_check_says_what_is_wrong_and_exits_1(disk, tmp_path):
    toy = toy_run(disk, tmp_path)
    toy.drive(max_rows=13)
    command = ["table", "check", disk.uri]
    out = said(*command)
    assert out.startswith("warning: ")  # not done
    toy.complete()
    assert xrec(*command)[:2] == (0, f"{disk.uri}: nothing is wrong\n")
    (name,) = (each for each in disk.location.sizes() if each.startswith("part-"))
    (disk.location / name).delete()
    code, out, _ = xrec(*command)
    assert code == 1
    assert out.startswith("error: ")
    assert name in out


def test_rollback_and_empty_make_a_version_and_say_which(disk, tmp_path):
    first = toy_run(disk, tmp_path, ["a"])
    first.complete()
    toy_run(disk, tmp_path, ["b", "c"]).complete()
    code, out, _ = xrec("table", "rollback", disk.uri, "--version", "0")
    assert (code, out) == (0, f"{disk.uri}: version 2 has the rows of version 0\n")
    assert rows_of(first.published()) == first.rows
    code, out, _ = xrec("table", "empty", disk.uri)
    assert (code, out.startswith(f"{disk.uri}: version 3 has no rows")) == (0, True)
    assert refused("table", "rollback", disk.uri, "--version", "9").exit_code == 1


@pytest.mark.parametrize("command", ["status", "check", "empty"])
def test_key_that_is_none_of_storage_or_lacks_its_twin_is_refused(command, disk):
    assert isinstance(refused("table", command, disk.uri, "pairs.kind=split"), ConfigError)
    secret = "storage.secret_access_key=wJalrXUtnFEMI"
    code, out, err = xrec("table", command, disk.uri, secret, "--debug")
    assert (code, "wJalr" in out + err) == (2, False)


def test_command_where_there_is_no_table_exits_1_and_says_so(disk, tmp_path):
    (tmp_path / "project.yaml").write_text("workspace: here\n")
    for command in (
        ("status", disk.uri),
        ("status", tmp_path / "project.yaml"),
        ("rollback", disk.uri, "--version", "0"),
        ("empty", disk.uri),
    ):
        assert refused("table", *command).exit_code == 1


def test_export_writes_and_says_what_is_there_and_refuses_the_rest(disk, tmp_path):
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
    assert (len(out.splitlines()), "takedown of 0" in out, "takedown of 1" in out) == (
        4,
        True,
        True,
    )

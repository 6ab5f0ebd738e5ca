"""`xrec export`: what it writes, prints, and says of mistakes."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.object_store import ObjectStore
from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import toy_run
from xrec.cli.main import app
from xrec.config.shared import StorageConfig
from xrec.storage import open_location


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """A published run, of 12 rows that succeeded and 12 that failed."""
    place = Place(str(tmp_path / "words"), StorageConfig())
    toy_run(place, tmp_path, ["a", "odd-1"]).complete()
    return place.uri


def test_export_writes_once_and_says_what_is_there(run_uri: str, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    command = ["export", run_uri, "--to", str(target), "--format", "csv"]
    command += ["--columns", "user, text"]
    first = CliRunner().invoke(app, command)
    assert (first.exit_code, first.output.count(": written: 12 rows of version ")) == (0, 1)
    files = list(target.glob("*.csv"))
    rows = [row for file in files for row in csv.DictReader(file.open(newline=""))]
    assert len(rows) == 12
    assert set(rows[0]) == {"user", "text"}
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "already there: 12 rows" in again.output) == (0, True)


def test_export_onto_a_store_that_arguments_name(tmp_path: Path, s3: ObjectStore) -> None:
    place = Place(f"{s3.new_bucket()}/words", s3.storage)
    toy_run(place, tmp_path, ["a"]).complete()
    secret = s3.storage.secret_access_key
    keys = [
        f"storage.endpoint_url={s3.endpoint_url}",
        f"storage.access_key_id={s3.access_key}",
        f"storage.secret_access_key={secret.get_secret_value() if secret else ''}",
    ]
    done = CliRunner().invoke(app, ["export", place.uri, *keys, "--to", f"{place.uri}-plain"])
    assert done.exit_code == 0, done.output
    assert "_SUCCESS" in open_location(f"{place.uri}-plain", s3.storage).files()


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--format", "xlsx"], 2, "format: Input should be 'parquet' or 'csv'"),
        (["--columns", "words"], 2, "['words'] are no columns"),
        (["--version", "99"], 1, "version 99 is not there; the table has 0 to 0"),
    ],
)
def test_export_of_what_is_not_there_says_so(
    run_uri: str, tmp_path: Path, options: list[str], exit_code: int, message: str
) -> None:
    target = tmp_path / "plain"
    done = CliRunner().invoke(app, ["export", run_uri, "--to", str(target), *options])
    assert (done.exit_code, message in done.output) == (exit_code, True), done.output
    assert not target.exists()


def test_export_of_a_run_that_is_not_published_says_so(tmp_path: Path) -> None:
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.drive()
    command = ["export", toy.run.output.uri, "--to", str(tmp_path / "plain")]
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, "nothing was published there" in refused.output) == (1, True)


def test_export_into_the_folder_of_another_one_is_refused(run_uri: str, tmp_path: Path) -> None:
    command = ["export", run_uri, "--to", str(tmp_path / "plain")]
    assert CliRunner().invoke(app, command).exit_code == 0
    refused = CliRunner().invoke(app, [*command, "--format", "csv"])
    assert refused.exit_code == 1
    assert "format: 'parquet' there, 'csv' here" in refused.output
    assert "give an empty folder" in refused.output
    assert not list((tmp_path / "plain").glob("*.csv"))

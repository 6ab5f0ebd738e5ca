"""The log of a table: whose rows a version shows, and whether it has the files that were meant."""

from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.errors import raises
from xrec.bulk.log import FILES, Commit, DeltaLog, Shown, digest_of, open_log, read_published
from xrec.bulk.table import commit_files
from xrec.errors import ArtifactNotFoundError, TableError
from xrec.storage import Location, make_manifest, parquet_bytes

SCHEMA = pa.schema([("bucket", pa.int32()), ("text", pa.string())])


def log_of(location: Location, version: int | None = None) -> DeltaLog:
    log = open_log(location, version)
    assert log is not None
    return log


def commit(location: Location, kind: Any, buckets: list[int], live: str = "", **more: Any) -> int:
    """Let the next version have a file for each bucket, of two rows; returns its number."""
    log, files = open_log(location), []
    for bucket in buckets:
        path = f"part-{kind}-{bucket}.parquet"
        data = parquet_bytes(pa.table({"bucket": [bucket] * 2, "text": [path, None]}), SCHEMA)
        (location / path).write_bytes(data)
        files.append([path, len(data), 2, bucket, bucket])
    table = pa.table([*zip(*files, strict=True)] or [[]] * len(FILES), schema=FILES)
    if kind == "publish":
        manifest = make_manifest("explanations", config={}, inputs={}, content=buckets)
        counted = {"pass_number": 0, "takedowns": 0, "num_gone": 0, "counts": {}, "left_out": ()}
        more["shown"] = Shown(run="run", nonce="nonce", manifest=manifest, **counted)
    said = Commit(kind=kind, table=log.id if log else "", live=live or digest_of(table), **more)
    assert commit_files(location, log, table, SCHEMA, said)
    return log.version + 1 if log else 0


def test_log_of_nothing_is_none_and_of_one_that_cannot_be_read_an_error(output):
    assert open_log(output) is None
    (output / "_delta_log" / "_started_and_killed.json.tmp").write_bytes(b"")
    assert open_log(output) is None
    with raises(ArtifactNotFoundError, "no_table"):
        read_published(output, "explanations")
    commit(output, "publish", [1])
    with raises(TableError, "no_version", saw=3):
        open_log(output, 3)
    commit(output, "publish", [2])
    entry = output / "_delta_log" / f"{1:020d}.json"
    log = log_of(output)
    data = entry.read_bytes()
    entry.delete()
    with raises(TableError, "broken_log", entry.name):
        log.is_sound(1)
    entry.write_bytes(data)
    features = [deltalake.TableFeatures.DeletionVectors]
    log.delta.alter.add_feature(features, allow_protocol_versions_increase=True)
    with raises(TableError, "unknown_feature", saw=3):
        open_log(output)
    (output / "_delta_log" / f"{0:020d}.json").write_bytes(b"{")
    with raises(TableError, "broken_log"):
        open_log(output)


@pytest.mark.parametrize("wrong", ["files", "table"])
def test_version_that_is_not_what_its_writer_meant_is_not_sound(output, wrong):
    commit(output, "publish", [1])
    log = log_of(output)
    said = Commit(kind="publish", table="another", live=digest_of(log.files(0)))
    if wrong == "files":
        commit(output, "publish", [2], live="of other files")
    else:  # the table was deleted and made again since its writer opened it
        commit_files(output, log, log.files(0), SCHEMA, said)
    log = log_of(output)
    assert (log.is_sound(0), log.is_sound(1)) == (True, False)
    log.delta.alter.set_table_properties({"delta.appendOnly": "false"})
    assert not log_of(output).is_sound(2)
    if wrong == "files":
        with raises(TableError, "not_sound", saw=2):
            read_published(output, "explanations")

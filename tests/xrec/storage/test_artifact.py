"""Manifests, and Parquet files with a fixed schema."""

import json
from contextlib import suppress
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from tests.errors import raises
from tests.fuzz import FEW_OR_MANY, IN_MEMORY, changed_json, examples
from xrec import __version__
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.schemas import PAIRS, USERS
from xrec.storage import (
    MANIFEST,
    RUN_RECORD,
    Location,
    Manifest,
    claim,
    content_hash,
    fingerprint_of,
    finished,
    make_manifest,
    open_location,
    read_footer,
    read_manifest,
    read_table,
    run_fingerprint,
    write_manifest,
    write_table,
)

CONFIG = {"model": {"embedding_dim": 64, "num_layers": 3}, "seed": 0}
INPUTS = {"dataset": "0123456789abcdef"}
GOOD = make_manifest("graph", config=CONFIG, inputs=INPUTS).to_bytes()
FILES = {"embeddings.safetensors": "feedbeef"}


def write(location: Location, kind: str = "graph", **values: Any) -> Manifest:
    made = {"config": CONFIG, "inputs": INPUTS, "files": FILES, **values}
    return write_manifest(location, kind, **made)


def test_manifest_is_read_back_and_found_by_its_run(output):
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output, "graph")
    assert finished(output, "graph", CONFIG, INPUTS) is None
    metrics = {"curve": [0.1, 0.25], "ndcg": 0.5}
    written = write(output, row_counts={"users": 3}, metrics=metrics)
    assert read_manifest(output, "graph") == written
    assert finished(output, "graph", dict(reversed(CONFIG.items())), INPUTS) == written
    expected = (CONFIG, INPUTS, FILES, __version__, metrics)
    names = ("config", "inputs", "files", "code_version", "metrics")
    assert tuple(getattr(written, name) for name in names) == expected
    assert json.loads((output / MANIFEST).read_text())["row_counts"] == {"users": 3}


def test_manifest_of_another_kind_or_schema_is_refused(tmp_path):
    location = open_location(str(tmp_path))
    (location / "embeddings.safetensors").write_bytes(b"an interrupted job's")
    with raises(ArtifactNotFoundError, "no_artifact", "graph"):
        read_manifest(location, "graph")
    write(location, "dataset")
    with raises(ArtifactMismatchError, "another_kind", saw="dataset"):
        read_manifest(location, "graph")
    values = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**values, "kind": "graph", "schema_version": 99}))
    with raises(ArtifactMismatchError, "another_schema", saw=99):
        read_manifest(location, "graph")


@FEW_OR_MANY
def test_manifest_and_claim_of_any_content_are_read_correctly_or_refused(how):
    def check(content: bytes) -> None:
        for name in (MANIFEST, RUN_RECORD):
            (location / name).write_bytes(content)
        with suppress(ArtifactMismatchError):
            stored = read_manifest(location, "graph").model_dump(mode="json")
            assert stored == {"version": None, **json.loads(content)}
        with suppress(ArtifactMismatchError):
            claim(location, "graph", CONFIG, INPUTS)
            assert json.loads(content)["run"] == run_fingerprint("graph", CONFIG, INPUTS)
        assert (location / RUN_RECORD).read_bytes() == content

    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        location = open_location(folder)
        examples(how, check, content=st.binary() | changed_json(GOOD))


@pytest.mark.parametrize(
    ("changes", "inputs", "line"),
    [
        ({"seed": 7}, INPUTS, "seed: 0 there, 7 here"),
        ({"model": {"num_layers": 3}}, INPUTS, "model.embedding_dim: 64 there, nothing here"),
        ({}, {"dataset": "other"}, "inputs.dataset: '0123456789abcdef' there, 'other' here"),
        ({"rank": None}, INPUTS, "rank: nothing there, None here"),
    ],
)
def test_finished_other_run_names_exactly_the_field_that_differs(tmp_path, changes, inputs, line):
    location = open_location(str(tmp_path))
    write(location)
    with raises(ArtifactMismatchError, "another_run", line.partition(":")[0], [line]):
        finished(location, "graph", {**CONFIG, **changes}, inputs)


def test_fingerprint_depends_on_the_content_and_the_run_does_not(tmp_path):
    # echo -n '{"a":1,"b":[2,"ö"]}' | sha256sum
    for values in ({"b": [2, "ö"], "a": 1}, {"a": 1, "b": [2, "ö"]}):
        assert fingerprint_of(values) == "7da7af4b1a93dd29"
    one, two = (write(open_location(str(tmp_path / text)), files={"f": text}) for text in "ab")
    assert one.run == two.run
    assert one.fingerprint != two.fingerprint


def _users() -> pa.Table:
    return pa.table({"profile": ["kind", ""], "user_index": [0, 1], "user_id": ["a", "b"]})


def test_write_table_casts_and_orders_columns_by_the_schema(tmp_path):
    location = open_location(str(tmp_path / "users.parquet"))
    digest = write_table(location, _users(), USERS)
    plain = pq.read_table(tmp_path / "users.parquet")
    assert plain.schema.equals(USERS)
    assert [[*row.values()] for row in plain.to_pylist()] == [["a", 0, "kind"], ["b", 1, ""]]
    assert read_table(location, USERS).equals(plain)
    assert digest == content_hash((tmp_path / "users.parquet").read_bytes())
    with raises(DataError, "other_columns", location.uri, USERS.names):
        read_table(location, PAIRS)


@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 70_000, 1], [65_536]])
def test_write_table_writes_batches_of_any_size_as_one_file(tmp_path, sizes):
    schema = pa.schema([("n", pa.int64())])
    numbers = iter(range(sum(sizes)))
    batches = [pa.record_batch({"n": [*islice(numbers, size)]}, schema) for size in sizes]
    file = open_location(str(tmp_path / "numbers.parquet"))
    digest = write_table(file, pa.RecordBatchReader.from_batches(schema, batches), schema)
    assert digest == content_hash(file.read_bytes())
    assert read_table(file, schema)["n"].to_pylist() == [*range(sum(sizes))]


@pytest.mark.parametrize("num_bytes", [10, 300_000])
def test_footer_longer_than_the_first_request_is_read(output, num_bytes):
    rows, sink = pa.table({"n": [1, 2]}), pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"note": "x" * num_bytes}), sink)
    (output / "file").write_bytes(sink.getvalue().to_pybytes())
    assert read_footer(output / "file").num_rows == 2


@pytest.mark.parametrize("changes", [{"user_index": 2**40}, {"user_id": None}])
def test_write_table_writes_nothing_if_a_value_does_not_fit(tmp_path, changes):
    location = open_location(str(tmp_path / "users.parquet"))
    row = {"user_id": "a", "user_index": 0, "profile": "", **changes}
    with pytest.raises(ValueError):  # noqa: PT011  Arrow's, or of a null
        write_table(location, pa.Table.from_pylist([row]), USERS)
    assert not location.exists()


@pytest.mark.parametrize("size", [0, 10, -4, -1])
def test_truncated_table_is_refused(tmp_path, size):
    location = open_location(str(tmp_path / "users.parquet"))
    write_table(location, _users(), USERS)
    location.write_bytes(location.read_bytes()[:size])
    with raises(DataError, "broken_file", location.uri):
        read_table(location, USERS)

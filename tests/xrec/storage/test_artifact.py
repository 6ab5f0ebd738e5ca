"""Manifests: a run finds its own artifact; that of another run is refused, with what differs."""

import json
from pathlib import Path

import pytest

from xrec import __version__
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import (
    MANIFEST,
    differing_fields,
    fingerprint_of,
    finished,
    open_location,
    read_manifest,
    write_manifest,
)

CONFIG = {"model": {"embedding_dim": 64, "num_layers": 3}, "seed": 0}
INPUTS = {"dataset": "0123456789abcdef"}
FILES = {"embeddings.safetensors": "feedbeef"}


def test_manifest_round_trip_keeps_all(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / "graph"))
    written = write_manifest(
        location,
        "graph",
        config=CONFIG,
        inputs=INPUTS,
        files=FILES,
        row_counts={"users": 3},
        metrics={"curve": [0.1, 0.25], "ndcg": 0.5},
    )
    assert read_manifest(location, "graph") == written
    assert (written.config, written.inputs, written.files, written.code_version) == (
        CONFIG,
        INPUTS,
        FILES,
        __version__,
    )
    assert written.metrics == {"curve": [0.1, 0.25], "ndcg": 0.5}
    assert json.loads((tmp_path / "graph" / MANIFEST).read_text())["row_counts"] == {"users": 3}


def test_manifest_on_s3_round_trip(s3: object, tmp_path: Path) -> None:
    location = open_location(s3.new_bucket() + "/graph", s3.storage)  # type: ignore[attr-defined]
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(location, "graph")
    written = write_manifest(location, "graph", config=CONFIG, inputs=INPUTS, files=FILES)
    assert read_manifest(location, "graph") == written


def test_read_manifest_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "embeddings.safetensors").write_bytes(b"an interrupted job's")
    with pytest.raises(
        ArtifactNotFoundError, match=rf"{tmp_path}: no graph artifact.*did not finish"
    ):
        read_manifest(open_location(str(tmp_path)), "graph")


def test_read_manifest_other_kind_names_both(tmp_path: Path) -> None:
    location = open_location(str(tmp_path))
    write_manifest(location, "dataset", config={}, inputs={}, files={})
    with pytest.raises(
        ArtifactMismatchError, match="holds a dataset artifact, expected a graph artifact"
    ):
        read_manifest(location, "graph")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_read_manifest_broken_file_is_a_mismatch(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactMismatchError, match=MANIFEST):
        read_manifest(open_location(str(tmp_path)), "graph")


def test_read_manifest_other_schema_version_names_both(tmp_path: Path) -> None:
    location = open_location(str(tmp_path))
    write_manifest(location, "graph", config={}, inputs={}, files={})
    values = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(ArtifactMismatchError, match="schema version 99"):
        read_manifest(location, "graph")


def test_finished_nothing_there_is_none_same_run_is_its_manifest(tmp_path: Path) -> None:
    location = open_location(str(tmp_path))
    assert finished(location, "graph", CONFIG, INPUTS) is None
    written = write_manifest(location, "graph", config=CONFIG, inputs=INPUTS, files=FILES)
    assert finished(location, "graph", dict(reversed(CONFIG.items())), INPUTS) == written


@pytest.mark.parametrize(
    ("config", "inputs", "line"),
    [
        ({**CONFIG, "seed": 7}, INPUTS, "seed: 0 there, 7 here"),
        (
            {**CONFIG, "model": {"embedding_dim": 32, "num_layers": 3}},
            INPUTS,
            "model.embedding_dim: 64 there, 32 here",
        ),
        (CONFIG, {"dataset": "other"}, "inputs.dataset: '0123456789abcdef' there, 'other' here"),
        ({"model": CONFIG["model"]}, INPUTS, "seed: 0 there, nothing here"),
        ({**CONFIG, "rank": None}, INPUTS, "rank: nothing there, None here"),
    ],
)
def test_finished_other_run_names_exactly_the_field_that_differs(
    tmp_path: Path, config: dict, inputs: dict, line: str
) -> None:  # type: ignore[type-arg]
    location = open_location(str(tmp_path))
    write_manifest(location, "graph", config=CONFIG, inputs=INPUTS, files=FILES)
    with pytest.raises(ArtifactMismatchError) as raised:
        finished(location, "graph", config, inputs)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{tmp_path}: holds the graph of another run:"
    assert lines[1:-1] == [f"  {line}"]


def test_fingerprints_run_ignores_content_fingerprint_does_not(tmp_path: Path) -> None:
    one = write_manifest(
        open_location(str(tmp_path / "1")), "graph", config=CONFIG, inputs=INPUTS, files={"f": "a"}
    )
    two = write_manifest(
        open_location(str(tmp_path / "2")), "graph", config=CONFIG, inputs=INPUTS, files={"f": "b"}
    )
    assert one.run == two.run
    assert one.fingerprint != two.fingerprint


def test_fingerprint_of_known_value_and_key_order() -> None:
    # echo -n '{"a":1,"b":[2,"ö"]}' | sha256sum
    assert fingerprint_of({"b": [2, "ö"], "a": 1}) == fingerprint_of({"a": 1, "b": [2, "ö"]})
    assert fingerprint_of({"a": 1, "b": [2, "ö"]}) == "7da7af4b1a93dd29"


def test_differing_fields_equal_values_have_none() -> None:
    assert differing_fields(CONFIG, CONFIG) == []

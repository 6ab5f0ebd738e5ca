"""Manifests: a run finds its own artifact; that of another run is refused, with what differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from xrec import __version__
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import (
    MANIFEST,
    Location,
    Manifest,
    fingerprint_of,
    finished,
    open_location,
    read_manifest,
    write_manifest,
)

CONFIG = {"model": {"embedding_dim": 64, "num_layers": 3}, "seed": 0}
INPUTS = {"dataset": "0123456789abcdef"}
FILES = {"embeddings.safetensors": "feedbeef"}


def write(location: Location, kind: str = "graph", **values: Any) -> Manifest:
    made = {"config": CONFIG, "inputs": INPUTS, "files": FILES, **values}
    return write_manifest(location, kind, **made)


def test_manifest_is_read_back_and_found_by_its_own_run(output):
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


def nothing(folder: Path) -> None:
    (folder / "embeddings.safetensors").write_bytes(b"an interrupted job's")


def another_version(folder: Path) -> None:
    write(open_location(str(folder)))
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**values, "schema_version": 99}))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (nothing, ArtifactNotFoundError, "{}: no graph artifact.*did not finish"),
        (
            lambda folder: write(open_location(str(folder)), "dataset"),
            ArtifactMismatchError,
            "holds a dataset artifact, expected a graph artifact",
        ),
        (another_version, ArtifactMismatchError, "schema version 99"),
        *(
            (
                lambda folder, text=text: (folder / MANIFEST).write_text(text),
                ArtifactMismatchError,
                MANIFEST,
            )
            for text in ("", "{}", "[1]", "not json")
        ),
    ],
)
def test_read_manifest_that_is_not_this_kinds_is_refused(tmp_path, make, error, words):
    make(tmp_path)
    with pytest.raises(error, match=words.format(tmp_path)):
        read_manifest(open_location(str(tmp_path)), "graph")


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
def test_finished_other_run_names_exactly_the_field_that_differs(tmp_path, config, inputs, line):
    location = open_location(str(tmp_path))
    write(location)
    with pytest.raises(ArtifactMismatchError) as raised:
        finished(location, "graph", config, inputs)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{tmp_path}: holds the graph of another run:"
    assert lines[1:-1] == [f"  {line}"]


def test_fingerprints_run_ignores_content_fingerprint_does_not(tmp_path):
    one, two = (write(open_location(str(tmp_path / text)), files={"f": text}) for text in "ab")
    assert one.run == two.run
    assert one.fingerprint != two.fingerprint


def test_fingerprint_of_known_value_and_key_order():
    # echo -n '{"a":1,"b":[2,"ö"]}' | sha256sum
    assert fingerprint_of({"b": [2, "ö"], "a": 1}) == fingerprint_of({"a": 1, "b": [2, "ö"]})
    assert fingerprint_of({"a": 1, "b": [2, "ö"]}) == "7da7af4b1a93dd29"

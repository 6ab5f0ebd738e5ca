"""What a node says of a place that the driver sees: artifacts, models and tables are there."""

from pathlib import Path

import pytest

from cluster.probe import _problem_of_reading
from xrec.storage import open_location


@pytest.mark.parametrize(
    "name", ["manifest.json", "config.json", "part-0.parquet", "status=ok/part-0.parquet"]
)
def test_place_with_an_artifact_a_model_or_a_table_is_seen(tmp_path: Path, name: str) -> None:
    file = tmp_path / "place" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert _problem_of_reading(open_location(str(tmp_path / "place"))) is None


def test_a_file_of_pairs_is_seen(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"x")
    assert _problem_of_reading(open_location(str(tmp_path / "pairs.parquet"))) is None


def test_place_that_is_not_there_or_holds_something_else_is_unshared(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "notes.txt").write_text("x")
    for name in ("place", "nowhere"):
        problem = _problem_of_reading(open_location(str(tmp_path / name)))
        assert problem is not None
        assert problem.kind == "unshared"

"""docs/explanations.md: its columns are the table's, and its examples read the right rows."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset
import pytest

from tests.world.here import pool_here
from tests.xrec.backfill.conftest import workspace
from tests.xrec.backfill.runs import Runs
from xrec.backfill.plan import EXPLANATIONS
from xrec.bulk import export_run

__all__ = ["workspace"]

PAGE = (Path(__file__).parents[1] / "docs" / "explanations.md").read_text()
PAIRS = [f"u{user} i{item}" for user in range(6) for item in range(4)]
BAD = tuple(pair for pair in PAIRS if pair.endswith("i3"))


@pytest.fixture(scope="module")
def uri(workspace, tmp_path_factory):
    """A table of two versions: the rows of BAD failed in the first one, and a retry healed them."""
    runs = Runs(workspace, tmp_path_factory.mktemp("explanations"))
    toy = runs.toy(mute=BAD, says="expliqué")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.backfill.driver.RayPool", pool_here)
        runs.run(*PAIRS, toy=toy)
        runs.heal()
        runs.run(*PAIRS, toy=toy, retry_failed=["empty_text"])
    return str(runs.folder / "explanations")


def example(heading: str) -> str:
    """Return the Python code below a heading of the page."""
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert section, f"docs/explanations.md has no heading {heading!r}"
    lines = section[1].splitlines()
    code = [line for line in lines if line.startswith("    ") or not line.strip()]
    return textwrap.dedent("\n".join(code))


def run_example(heading: str, uri: str, **names: Any) -> Any:
    """Return `rows` of an example, run after the page's example that finds the version."""
    names["uri"] = uri
    exec(example("The version"), names)
    exec(example(heading), names)
    return names["rows"]


def check(explanations: list[str], users: list[str]) -> None:
    assert sorted(explanations) == [f"expliqué {pair}" for pair in PAIRS]
    assert sorted(users) == [pair.split()[0] for pair in PAIRS]


@pytest.mark.parametrize("heading", ["xrec", "pyarrow", "pandas", "Polars"])
def test_example_reads_each_explanation_once(uri, heading):
    if heading == "Polars":
        pytest.importorskip("polars", reason="needs the package polars, of the extra test")
    rows = run_example(heading, uri)
    texts, users = rows["explanation"], rows["user_id"]
    is_arrow = isinstance(rows, pa.Table)
    check(*(each.to_pylist() if is_arrow else list(each) for each in (texts, users)))


@pytest.mark.parametrize("heading", ["DuckDB", "DuckDB without its extension"])
def test_example_of_duckdb_reads_each_explanation_once(uri, heading):
    duckdb = pytest.importorskip("duckdb", reason="needs the package duckdb, of the extra test")
    if heading == "DuckDB":
        package = pytest.importorskip(
            "duckdb_extension_delta", reason="needs the package duckdb-extension-delta"
        )
        (extension,) = Path(package.__file__).parent.rglob("*.duckdb_extension")
        duckdb.load_extension(str(extension))
    found = run_example(heading, uri).select("explanation, user_id").fetchall()
    check(*map(list, zip(*found, strict=True)))


@pytest.mark.usefixtures("ray_cluster")
def test_example_of_ray_reads_each_explanation_once(uri):
    rows = run_example("Ray Data", uri).take_all()
    check([row["explanation"] for row in rows], [row["user_id"] for row in rows])


def test_pattern_reads_rows_twice_and_an_export_does_not(uri, tmp_path):
    pattern = sorted(map(str, Path(uri).glob("*.parquet")))
    read = pyarrow.dataset.dataset(pattern).to_table()
    assert read.num_rows == 2 * len(PAIRS)
    assert read["explanation"].null_count == len(BAD)
    export_run(uri, str(tmp_path / "files"))
    rows = pyarrow.dataset.dataset(sorted((tmp_path / "files").glob("*.parquet"))).to_table()
    check(rows["explanation"].to_pylist(), rows["user_id"].to_pylist())


def test_columns_of_the_page_are_those_of_the_table_and_of_its_metadata(uri):
    described = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (\w*) ?\| (.*) \|$", PAGE, re.M)
    ok, failed = {*EXPLANATIONS.ok.names}, {*EXPLANATIONS.failed.names, "reason", "message"}
    schema = json.loads(deltalake.DeltaTable(uri).schema().to_json())["fields"]
    arrow = deltalake.DeltaTable(uri).to_pyarrow_dataset().schema
    assert [
        (
            column["name"],
            str(arrow.field(column["name"]).type).partition("<")[0],
            "ok"
            if column["name"] in ok - failed
            else ("all", "failed")[column["name"] in failed - ok],
            column["metadata"].get("unit", ""),
            column["metadata"]["comment"],
        )
        for column in schema
    ] == described

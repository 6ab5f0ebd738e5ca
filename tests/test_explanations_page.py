"""docs/explanations.md: its columns are the table's, and its examples read the right rows."""

import json
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset
import pytest

from tests.world.here import PoolHere, TaskOf, plan_of
from xrec.backfill.driver import KIND, describe
from xrec.backfill.plan import EXPLANATIONS
from xrec.bulk import DriveOptions, Outcome, complete, export_run
from xrec.config import BackfillConfig

PAGE = (Path(__file__).parents[1] / "docs" / "explanations.md").read_text()
PAIRS = [(f"u{user}", f"i{item}") for user in range(6) for item in range(4)]
NUM_BAD = 6  # the pairs with item i3


TEXTS = dict.fromkeys(("content_key", "user_profile", "item_title", "item_profile"), "")
NUMBERS = {
    **dict.fromkeys(("num_prompt_tokens", "num_generated_tokens"), 3),
    **dict.fromkeys(("finish_reason", "model_fingerprint", "content_key", "kind"), "x"),
    "aspects": [],
    "refused": "",
}


def explain(rows: pa.Table, *, is_healed: bool) -> Outcome:
    """Explain pairs; those with item i3 fail unless `is_healed`."""
    ok, failed = [], []
    for pair in rows.to_pylist():
        if pair["item_id"] == "i3" and not is_healed:
            failed.append({**pair, "reason": "empty_text", "message": "", **TEXTS})
        else:
            text = f"{pair['user_id']} likes {pair['item_id']}, é"
            ok.append({**pair, "explanation": text, **NUMBERS})
    return Outcome(
        pa.Table.from_pylist(ok, EXPLANATIONS.ok_schema),
        pa.Table.from_pylist(failed, EXPLANATIONS.failed_schema),
    )


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A table of two versions: some rows had failed in the first one, and a retry healed them."""
    uri = str(tmp_path_factory.mktemp("workspace") / "explanations")
    table = pa.table({"user_id": [u for u, _ in PAIRS], "item_id": [i for _, i in PAIRS]})
    run = plan_of(uri, "explanations", EXPLANATIONS, table, rows_per_chunk=4)
    values = {"workspace": "w", "llm": {"model": "m"}, "pairs": {"kind": "split", "split": "test"}}
    config = BackfillConfig.model_validate(values)
    told = describe(config, run, None)
    for is_healed, retry in ((False, ()), (True, ("empty_text",))):
        do = TaskOf(partial(explain, is_healed=is_healed))
        complete(run, PoolHere(), lambda do=do: do, KIND, told, DriveOptions(retry=retry))
    return uri


def example(heading: str) -> str:
    """The Python code below a heading of the page."""
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert section, f"docs/explanations.md has no heading {heading!r}"
    lines = section[1].splitlines()
    code = [line for line in lines if line.startswith("    ") or not line.strip()]
    return textwrap.dedent("\n".join(code))


def run_example(heading: str, uri: str, **names: Any) -> Any:
    """What the example makes `rows`, with the version that the page's own example finds."""
    names["uri"] = uri
    exec(example("The version"), names)
    exec(example(heading), names)
    return names["rows"]


def check(explanations: list[str], users: list[str]) -> None:
    assert sorted(explanations) == sorted(f"{user} likes {item}, é" for user, item in PAIRS)
    assert sorted(users) == sorted(user for user, _ in PAIRS)


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
    assert read["explanation"].null_count == NUM_BAD
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

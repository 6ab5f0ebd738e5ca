"""Who turns ids into indices best: the core of `xrec prepare`, by three engines.

    python -m benchmarks.prepare [--rows 1000000 --rows 10000000] [--files 200]

Drawn interactions of text ids (a tenth as many users as rows, a hundredth as many items), in
Parquet files. Each engine numbers the ids by their bytes, joins the numbers to the rows, takes
equal rows once, sorts them by user and item, and writes Parquet, in a process of its own. The
columns are seconds by the clock, the peak of what the process and all that it started hold in
memory (PSS, which counts Ray's shared store once), and rows written, which must be equal.

| contestant | what it is |
|---|---|
| `duckdb` | what `xrec prepare` uses, with `--gigabytes` of memory and the disk |
| `polars` | lazy frames, the streaming engine |
| `ray` | Ray Data: hash shuffles, the object store spills to disk |
"""

import json
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import duckdb
import psutil
import typer

from benchmarks.processes import family, start

app = typer.Typer(add_completion=False)
_NUMBERED = "select {name}, row_number() over (order by {name}) - 1 as {index} from ({ids})"
_IDS = "select distinct {name} from read_parquet('{files}')"


def draw(folder: Path, rows: int, files: int) -> None:
    """Write the interactions; a tenth of the rows are there twice."""
    folder.mkdir()
    for number in range(files):
        first, last = rows * number // files, rows * (number + 1) // files
        duckdb.sql(
            f"select 'user-' || hash(n * 10 // 11, 1) % {rows // 10} as user_id, "
            f"'item-' || floor(pow(hash(n * 10 // 11, 2) / pow(2, 64), 2) * {rows // 100})::bigint "
            f"as item_id from range({first}, {last}) t(n)"
        ).write_parquet(str(folder / f"{number}.parquet"))


def by_duckdb(source: str, target: Path, gigabytes: float) -> None:
    with duckdb.connect() as base:
        base.execute(f"set memory_limit = '{gigabytes}GB'")
        base.execute(f"set temp_directory = '{target / 'spill'}'")
        base.execute("set preserve_insertion_order = false")
        for name, index in (("user_id", "user_index"), ("item_id", "item_index")):
            ids = _IDS.format(name=name, files=source)
            base.execute(
                f"create temp table {index} as {_NUMBERED.format(name=name, index=index, ids=ids)}"
            )
        base.execute(
            f"copy (select distinct user_index, item_index from read_parquet('{source}') "
            "join user_index using (user_id) join item_index using (item_id) "
            f"order by 1, 2) to '{target}/rows.parquet' (format parquet)"
        )


def by_polars(source: str, target: Path, gigabytes: float) -> None:
    del gigabytes  # it has no limit to set
    import polars

    rows = polars.scan_parquet(source)
    for name, index in (("user_id", "user_index"), ("item_id", "item_index")):
        ids = rows.select(name).unique().sort(name).with_row_index(index)
        rows = rows.join(ids, on=name)
    rows = rows.select("user_index", "item_index").unique().sort("user_index", "item_index")
    rows.sink_parquet(target / "rows.parquet", engine="streaming")


def by_ray(source: str, target: Path, gigabytes: float) -> None:
    import pyarrow as pa
    import ray

    ray.init(
        object_store_memory=int(gigabytes * 2**30),
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(target / "ray"),
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    parts = 16

    def numbered(name: str, index: str) -> ray.data.Dataset:
        """Each block of the sorted ids counts on from where the one before ended."""
        ids = rows.select_columns([name]).groupby(name, num_partitions=parts).count()
        tables = ray.get(ids.select_columns([name]).sort(name).to_arrow_refs())
        ends, made = 0, list[pa.Table]()
        for table in tables:
            made.append(table.append_column(index, pa.array(range(ends, ends + table.num_rows))))
            ends += table.num_rows
        return ray.data.from_arrow(made)

    rows = ray.data.read_parquet(str(Path(source).parent), override_num_blocks=parts)
    joined = rows
    for name, index in (("user_id", "user_index"), ("item_id", "item_index")):
        joined = joined.join(numbered(name, index), "inner", parts, on=(name,))
    names = ["user_index", "item_index"]
    once = joined.select_columns(names).groupby(names, num_partitions=parts).count()
    once.select_columns(names).sort(names).write_parquet(str(target / "rows.parquet"))
    ray.shutdown()


_BY = {"duckdb": by_duckdb, "polars": by_polars, "ray": by_ray}


@app.command()
def one(contestant: str, folder: Path, gigabytes: float) -> None:
    """One contestant, in this process."""
    target = folder / contestant
    target.mkdir()
    started = time.monotonic()
    _BY[contestant](f"{folder}/source/*.parquet", target, gigabytes)
    seconds = time.monotonic() - started
    written = target / "rows.parquet"
    files = f"{written}/*.parquet" if written.is_dir() else str(written)
    found = duckdb.sql(f"select count(*), sum(hash(user_index, item_index)) from '{files}'")
    typer.echo(json.dumps({"seconds": seconds, "rows": str(found.fetchone())}))


@app.command()
def run(
    rows: Annotated[list[int] | None, typer.Option()] = None,
    files: int = 200,
    gigabytes: float = 2.0,
    contestant: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """All contestants in turn, at each size."""
    typer.echo("| rows | contestant | seconds | peak, GB | written |\n|---|---|---|---|---|")
    for size in rows or (1_000_000, 10_000_000):
        folder = Path(mkdtemp(prefix="xrec-"))
        try:
            draw(folder / "source", size, files)
            for name in contestant or _BY:
                typer.echo(f"| {size:.0e} | {name} | {_measured(name, folder, gigabytes)} |")
        finally:
            shutil.rmtree(folder)


def _measured(name: str, folder: Path, gigabytes: float) -> str:
    process = start(["benchmarks.prepare", "one", name, str(folder), str(gigabytes)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss, family(process))))
        time.sleep(0.2)
    lines = [line for line in process.communicate()[0].splitlines() if line.startswith("{")]
    if not lines:
        return f"failed ({process.returncode}) | {peak / 1e9:.1f} | "
    found = json.loads(lines[-1])
    return f"{found['seconds']:.1f} | {peak / 1e9:.2f} | {found['rows']}"


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    app()

"""Nights of `xrec refresh` on the generated town: how many texts are taken over, and why not.

    python -m benchmarks.nights FOLDER configs/sample.yaml --nights 7 [key=value ...]

A hash decides when each visit and each user arrives: of both halves of a night's share (1 % of the
visits), one is new users with all their visits, and one is visits of known users. Arrivals begin
when 93 % are there. Prints a line a night: users, visits, seconds, texts taken over, reasons,
vectors moved, validation Recall@20.
"""

import time
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

import jobs.project_run
from jobs.catalogue import chosen_configs
from xrec.config.data import PrepareConfig, SampleSource
from xrec.config.project import read_project
from xrec.config.shared import JobConfig
from xrec.sample import generate_town, town_tables
from xrec.storage import Manifest, open_location, read_manifest

_FIRST, _SEED = 0.93, 0


def write_night(folder: Path, source: SampleSource, night: int, share: float) -> tuple[int, int]:
    """Write the tables of all that has arrived until a night; returns users and visits."""
    tables = town_tables(generate_town(source))
    rng = np.random.default_rng(_SEED)
    limit = 1 - (1 - _FIRST - night * share) / 2  # of each half
    users, visits = tables["users"], tables["interactions"]
    here = users["user_id"].filter(pa.array(rng.random(users.num_rows) <= limit))
    made = pa.array(rng.random(visits.num_rows) <= limit)
    tables["interactions"] = visits.filter(made)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("users", "items", "interactions", "explanations"):
        rows = tables[name]
        if "user_id" in rows.column_names:
            rows = rows.filter(pc.is_in(rows["user_id"], pa.array(here)))
        pq.write_table(rows, folder / f"{name}.parquet")
        if name == "interactions":
            num_visits = rows.num_rows
    return len(here), num_visits


def _told(line: str) -> None:
    typer.echo(f"    {line}")


def _line(night: int, sizes: tuple[int, int], seconds: float, manifest: Manifest) -> str:
    metrics, counts = manifest.metrics, manifest.row_counts
    graph_uri = metrics["made_from"]["graph"]
    return (
        f"night {night}: {sizes[0]} users, {sizes[1]} visits, {seconds:.0f} s; taken over "
        f"{metrics['num_carried']} of {counts['explanations'] + counts['failed']}; not: "
        f"{metrics['written_again']}; {graph_uri}"
    )


def main(
    folder: Path,
    config: str,
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    nights: int = 7,
    share: float = 0.01,
) -> None:
    """Run the project on what arrived first, then night after night."""
    given = [f"workspace={folder / 'workspace'}", *(overrides or [])]
    town = cast(PrepareConfig, chosen_configs(read_project(config, given))["prepare"]).source
    assert isinstance(town, SampleSource)
    tables = f"prepare.source={{kind: tables, uri: {folder / 'raw'}}}"
    pairs = "backfill.pairs={kind: recommendations}"

    def configs() -> dict[str, JobConfig]:
        found = chosen_configs(read_project(config, [*given, tables, pairs]), None, "backfill")
        return dict(found)

    for night in range(nights + 1):
        sizes = write_night(folder / "raw", town, night, share)
        started = time.monotonic()
        step = jobs.project_run.refresh if night else jobs.project_run.run
        manifest = step(configs(), tell=_told)
        typer.echo(_line(night, sizes, time.monotonic() - started, manifest))
        made = manifest.metrics["made_from"]["graph"].removeprefix("workspace:")
        graph = read_manifest(open_location(str(folder / "workspace" / made)), "graph").metrics
        moved = f"{graph.get('num_moved')} of {graph.get('num_known')}"
        recall = graph["validation"]["recall@20"]
        typer.echo(f"    best epoch {graph['best_epoch']}; moved {moved}; Recall@20 {recall:.4f}")


if __name__ == "__main__":
    typer.run(main)

"""Nights of `xrec refresh`: how many texts are taken over, and why not the others.

    python -m benchmarks.nights FOLDER configs/sample.yaml --nights 7 [key=value ...]
    python -m benchmarks.nights FOLDER configs/yelp.yaml --num-pairs 600 [key=value ...]

The project's dataset is made first, and arrives night by night: a hash decides when each
interaction and each user does. Of both halves of a night's share (1 % of the interactions), one is
new users with all that they have, and one is interactions of known users. Arrivals begin when 93 %
are there. The pairs are those of the recommendations, or `--num-pairs` interactions that are not
trained on, which arrive too. Prints a line a night: users, interactions, seconds, texts taken over,
reasons, vectors moved, validation Recall@20.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

import jobs.prepare
import jobs.project_run
from jobs.catalogue import chosen_configs
from xrec.config.data import PrepareConfig
from xrec.config.project import read_project
from xrec.config.shared import JobConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.storage import Manifest, location_of, open_location, read_manifest

_FIRST, _SEED = 0.93, 0


def tables_of(dataset: Dataset, num_pairs: int | None) -> dict[str, pa.Table]:
    """The dataset as raw tables, with ids; "pairs" are test interactions, left out elsewhere."""
    made = {
        "users": dataset.users.select(["user_id", "profile"]),
        "items": dataset.items.select(["item_id", "title", "profile"]),
    }
    rows = {"interactions": dataset.interactions, "explanations": dataset.explanations}
    if num_pairs is not None:
        test = pc.equal(dataset.interactions["split"], "test")
        rows["interactions"] = dataset.interactions.filter(pc.invert(test))
        held_out = dataset.interactions.filter(test)
        drawn = np.random.default_rng(_SEED).permutation(held_out.num_rows)[:num_pairs]
        rows["pairs"] = held_out.take(pa.array(drawn))
    for name, table in rows.items():
        ids = {
            "user_id": dataset.users["user_id"].take(table["user_index"]),
            "item_id": dataset.items["item_id"].take(table["item_index"]),
        }
        texts = {"explanation": table["explanation"]} if name == "explanations" else {}
        made[name] = pa.table({**ids, **texts})
    return made


def write_night(
    folder: Path, tables: dict[str, pa.Table], night: int, share: float
) -> tuple[int, int]:
    """Write the tables of all that has arrived until a night; returns users and interactions."""
    rng = np.random.default_rng(_SEED)
    limit = 1 - (1 - _FIRST - night * share) / 2  # of each half
    users = tables["users"]
    here = users["user_id"].filter(pa.array(rng.random(users.num_rows) <= limit))
    made = pa.array(rng.random(tables["interactions"].num_rows) <= limit)
    arrived = {**tables, "interactions": tables["interactions"].filter(made)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in arrived.items():
        if name != "items":
            arrived[name] = rows.filter(pc.is_in(rows["user_id"], here))
        pq.write_table(arrived[name], folder / f"{name}.parquet")
    return len(here), arrived["interactions"].num_rows


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
    num_pairs: int | None = None,
) -> None:
    """Run the project on what arrived first, then night after night."""
    base = read_project(config, [f"workspace={folder / 'base'}", *(overrides or [])])
    prepare = chosen_configs(base)["prepare"]
    assert isinstance(prepare, PrepareConfig)
    jobs.prepare.run(prepare)
    tables = tables_of(read_dataset(location_of(prepare, "dataset")), num_pairs)
    raw = folder / "raw"
    pairs = (
        "{kind: recommendations}"
        if num_pairs is None
        else f"{{kind: table, uri: {raw}/pairs.parquet}}"
    )
    given = [
        f"workspace={folder / 'workspace'}",
        *(overrides or []),
        f"prepare.source={{kind: tables, uri: {raw}}}",
        f"backfill.pairs={pairs}",
    ]

    def configs() -> dict[str, JobConfig]:
        return dict(chosen_configs(read_project(config, given), None, "backfill"))

    for night in range(nights + 1):
        sizes = write_night(raw, tables, night, share)
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

"""Nights of `xrec refresh`: how many texts are taken over, and why not the others.

    python -m benchmarks.nights FOLDER configs/sample.yaml --nights 7 [key=value ...]
    python -m benchmarks.nights FOLDER configs/yelp.yaml --num-pairs 600 [key=value ...]

The project's dataset is made first, and arrives night by night: a hash decides when each
interaction and each user does. Of both halves of a night's share (1 % of the interactions), one is
new users with all that they have, and one is interactions of known users. Arrivals begin when 93 %
are there. The pairs are those of the recommendations, or `--num-pairs` interactions that are not
trained on, which arrive too; those with a text of the release first. Prints a line a night: users,
interactions, seconds, texts taken over, reasons, vectors moved, Recall@20, and a digest of all
rows. With `--kills` each night is a process of its own that is killed once, at a random second, and
begun again: the digests are to be those of nights that nobody killed.

At last, in the last night's place: a graph trained anew on all that is there, and all pairs written
anew with the night's models (`--no-compare` leaves this out). Of the texts that are as the first
run wrote them it prints the same figures as of those that are new in their place.
"""

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import killpg
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

import xrec.jobs.audit
import xrec.jobs.backfill
import xrec.jobs.pipeline
import xrec.jobs.prepare
import xrec.jobs.pretrain_graph
from xrec.backfill import present
from xrec.bulk import published
from xrec.config import BackfillConfig, JobConfig, PrepareConfig, PretrainGraphConfig, read_project
from xrec.data import Dataset, held_out_pairs, read_dataset
from xrec.evaluate.intervals import mean_interval
from xrec.evaluate.text_metrics import rouge_l
from xrec.jobs.pipeline import chosen_configs
from xrec.nights.figures import text_shares
from xrec.schemas import GENERATED
from xrec.storage import Manifest, location_of, open_location, read_manifest

_FIRST, _SEED = 0.93, 0
_SECONDS_TO_KILL = 60.0  # within which a night is killed, or less if one took less
Rows = dict[tuple[str, str], dict[str, Any]]
"""Explanations by user and item."""
_PAIR = ("user_index", "item_index")


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
        texts = dataset.explanations
        rows["explanations"] = texts.filter(pc.not_equal(texts["split"], "test"))
        told = set(zip(*(texts[name].to_pylist() for name in _PAIR), strict=True))
        pairs = zip(*(held_out[name].to_pylist() for name in _PAIR), strict=True)
        order = np.random.default_rng(_SEED).permutation(held_out.num_rows)
        has_text = np.array([pair in told for pair in pairs])[order]
        drawn = np.concatenate([order[has_text], order[~has_text]])[:num_pairs]
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


def _line(
    night: int, sizes: tuple[int, int], seconds: float, manifest: Manifest, rows: Rows
) -> str:
    metrics, counts = manifest.metrics, manifest.row_counts
    digest = hashlib.sha256(repr(sorted(rows.items())).encode()).hexdigest()[:16]
    return (
        f"night {night}: {sizes[0]} users, {sizes[1]} visits, {seconds:.0f} s; taken over "
        f"{metrics['num_carried']} of {counts['explanations'] + counts['failed']}; not: "
        f"{metrics['written_again']}; {metrics['made_from']['graph']}; rows {digest}"
    )


def rows_of(config: JobConfig) -> tuple[Manifest, Rows]:
    """What is published of a backfill."""
    table = published(config.artifact("explanations"))
    found = (row for rows in table.batches(GENERATED.names) for row in rows.to_pylist())
    return table.manifest, {(row["user_id"], row["item_id"]): row for row in found}


def killed_once(config: str, given: Sequence[str], seconds: float, draw: random.Random) -> None:
    """A night by `xrec refresh`, killed after up to so many seconds and begun again."""
    command = [sys.executable, "-m", "xrec.cli", "refresh", config, *given]
    night = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    after = draw.uniform(0.05, 0.95) * seconds
    with suppress(subprocess.TimeoutExpired):
        night.wait(after)
    _told(f"killed after {after:.0f} s" if night.poll() is None else "it ended before its kill")
    with suppress(ProcessLookupError):
        killpg(night.pid, signal.SIGKILL)
    night.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def yardsticks(rows: Rows, references: Mapping[tuple[str, str], str]) -> str:
    """Figures of texts: shares, words, distinct ones, and nearness to the release's texts."""
    texts = [row["explanation"] for row in rows.values()]
    shares = {name: value for name, value in text_shares(rows).items() if value is not None}
    told = [pair for pair in rows if pair in references]
    near = rouge_l([rows[pair]["explanation"] for pair in told], [references[p] for p in told])
    estimate = mean_interval(near, [user for user, _ in told])
    return (
        f"{', '.join(f'{name} {value:.3f}' for name, value in shares.items())}, "
        f"words {np.mean([len(text.split()) for text in texts]):.1f}, "
        f"distinct {len(set(texts)) / len(texts):.3f}, "
        f"ROUGE-L {estimate.value:.4f} ({estimate.interval(4)}) of {len(told)}"
    )


def compare(
    configs: Mapping[str, JobConfig], folder: Path, first: Rows, references: Mapping[Any, str]
) -> None:
    """A graph of the last night trained anew, and its texts written anew, beside what is there."""
    backfill, graph = configs["backfill"], configs["pretrain-graph"]
    assert isinstance(backfill, BackfillConfig)
    assert isinstance(graph, PretrainGraphConfig)
    now = rows_of(backfill)[1]
    night = present(backfill)
    of_night = {"dataset": night.artifact("dataset"), "graph": str(folder / "graph")}
    anew = xrec.jobs.pretrain_graph.run(
        graph.with_artifacts(of_night).model_copy(update={"folds": 0})
    )
    there = read_manifest(open_location(night.artifact("graph")), "graph")
    for name, made in (("carried through the nights", there), ("trained anew", anew)):
        recall = {
            part: round(made.metrics[part]["recall@20"], 4) for part in ("validation", "test")
        }
        typer.echo(f"graph {name}: Recall@20 {recall}")
    for line in list(xrec.jobs.audit.audit(night, takes_down=False))[-1:]:
        typer.echo(line)
    elsewhere = night.with_artifacts({"explanations": str(folder / "anew")})
    written = elsewhere.model_copy(update={"carry_from": None, "gate": None})
    xrec.jobs.backfill.run(written)
    new = rows_of(written)[1]
    said = {pair: row["explanation"] for pair, row in first.items()}
    kept = {p: row for p, row in now.items() if said.get(p) == row["explanation"] and p in new}
    fresh = {pair: new[pair] for pair in kept}
    rest = {pair: row for pair, row in now.items() if pair not in kept}
    same = sum(row["explanation"] == new[pair]["explanation"] for pair, row in kept.items())
    typer.echo(f"{len(kept)} texts are as first written; {same} would be written so again")
    for name, rows in (("as first written", kept), ("anew", fresh), ("others, of nights", rest)):
        typer.echo(f"{name}: {yardsticks(rows, references)}")


def main(
    folder: Path,
    config: str,
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    nights: int = 7,
    share: float = 0.01,
    num_pairs: int | None = None,
    kills: bool = False,
    compares: Annotated[bool, typer.Option("--compare/--no-compare")] = True,
) -> None:
    """Run the project on what arrived first, then night after night."""
    base = read_project(config, [f"workspace={folder / 'base'}", *(overrides or [])])
    prepare = chosen_configs(base)["prepare"]
    assert isinstance(prepare, PrepareConfig)
    xrec.jobs.prepare.run(prepare)
    dataset = read_dataset(location_of(prepare, "dataset"))
    tables = tables_of(dataset, num_pairs)
    references = {(p.user_id, p.item_id): p.reference for p in held_out_pairs(dataset, "test")}
    raw = folder / "raw"
    pairs = [] if num_pairs is None else [f"{{kind: table, uri: {raw}/pairs.parquet}}"]
    given = [
        f"workspace={folder / 'workspace'}",
        *(overrides or []),
        f"prepare.source={{kind: tables, uri: {raw}}}",
        *(f"backfill.pairs={table}" for table in pairs),
    ]

    def configs() -> dict[str, JobConfig]:
        return dict(chosen_configs(read_project(config, given), None, "backfill"))

    seconds, draw, first = 0.0, random.Random(_SEED), Rows()
    for night in range(nights + 1):
        sizes = write_night(raw, tables, night, share)
        started = time.monotonic()
        if night and kills:
            killed_once(config, given, seconds, draw)
        else:
            step = xrec.jobs.pipeline.refresh if night else xrec.jobs.pipeline.run
            step(configs(), tell=_told)
        seconds = min(seconds, time.monotonic() - started) if night else _SECONDS_TO_KILL
        manifest, rows = rows_of(configs()["backfill"])
        first = first or rows
        typer.echo(_line(night, sizes, time.monotonic() - started, manifest, rows))
        made = manifest.metrics["made_from"]["graph"].removeprefix("workspace:")
        graph = read_manifest(open_location(str(folder / "workspace" / made)), "graph").metrics
        moved = f"{graph.get('num_moved')} of {graph.get('num_known')}"
        recall = graph["validation"]["recall@20"]
        typer.echo(f"    best epoch {graph['best_epoch']}; moved {moved}; Recall@20 {recall:.4f}")
    if compares:
        compare(configs(), folder, first, references)


if __name__ == "__main__":
    typer.run(main)

"""Writes `report.json` and `report.html`: what a run cost and produced.

The figures come from the commit records, so they cover every driver and actor that ever worked on
the run. Rates and costs refer to the time that actors worked on the attempts that were committed;
the time for loading models and for lost attempts is not included.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from xrec.backfill.commit import FAILED_FOLDER, Commit, EngineWork
from xrec.backfill.report_page import report_page
from xrec.backfill.snapshot import Record, Snapshot, snapshot_of
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, read_table

_NUM_BINS = 40
_NUM_SAMPLES = 10


def write_report(
    output: Location, records: Sequence[Record], price_per_actor_hour: float | None
) -> None:
    """Write both files.

    `price_per_actor_hour` is in any currency; if it is None, the report states no cost.
    """
    snapshot = snapshot_of(records)
    commits = [commit for record in records for commit in record.commits]
    explained = [name for name in snapshot.files if not name.startswith(FAILED_FOLDER)]
    failed = [name for name in snapshot.files if name.startswith(FAILED_FOLDER)]
    report = {
        **summarize(commits, price_per_actor_hour),
        **_rows(snapshot),
        "samples": _samples(output, explained, GENERATED),
        "failed_samples": _samples(output, failed, FAILED),
    }
    (output / "report.json").write_bytes(json.dumps(report, indent=2, ensure_ascii=False).encode())
    (output / "report.html").write_bytes(report_page(report).encode())


def summarize(commits: Sequence[Commit], price_per_actor_hour: float | None) -> dict[str, Any]:
    """Return tokens, rates, deaths, lengths and cost of the work on `commits`.

    Shares and rates are None if nothing was generated or the engine does not report its work.
    """
    works = [commit.work for commit in commits]
    num_generated = sum(map(_num_generated, commits))
    seconds = sum(work.seconds for work in works)
    engine = EngineWork.sum(work.engine for work in works if work.engine is not None)
    lengths: Counter[int] = Counter()
    for work in works:
        lengths.update(work.generated_lengths)
    return {
        "num_generated": num_generated,
        "tokens": {
            "prompt": sum(work.num_prompt_tokens for work in works),
            "generated": sum(work.num_generated_tokens for work in works),
        },
        "prefix_hit_share": 1 - engine.num_computed_prompt_tokens / engine.num_prompt_tokens
        if engine.num_prompt_tokens
        else None,
        "attention_padding_share": 1 - engine.num_seen_keys / engine.num_key_cells
        if engine.num_key_cells
        else None,
        "num_deaths": sum(work.num_deaths for work in works),
        "actor_seconds": seconds,
        "pairs_per_actor_second": num_generated / seconds if seconds else None,
        "actors": _actors(commits),
        "timeline": _timeline(commits),
        "generated_lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "price_per_actor_hour": price_per_actor_hour,
        "cost_per_million_pairs": (
            None
            if price_per_actor_hour is None or not num_generated
            else price_per_actor_hour * seconds / 3600 / num_generated * 1e6
        ),
    }


def _num_generated(commit: Commit) -> int:
    """How many pairs the actor worked on, without those that were carried."""
    return commit.num_rows - commit.num_carried + commit.num_failed


def _rows(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "generation": snapshot.generation,
        "num_explained": snapshot.num_explained,
        "num_carried": snapshot.num_carried,
        "num_failed": snapshot.num_failed,
        "failed_by_reason": snapshot.failed_by_reason,
    }


def _actors(commits: Iterable[Commit]) -> list[dict[str, Any]]:
    """Return chunks, pairs, seconds and pairs a second of each process that committed a chunk."""
    of_actor: defaultdict[str, list[Commit]] = defaultdict(list)
    for commit in commits:
        of_actor[commit.work.actor].append(commit)
    rows = []
    for actor, own in sorted(of_actor.items()):
        pairs, seconds = sum(map(_num_generated, own)), sum(commit.work.seconds for commit in own)
        rows.append(
            {
                "actor": actor,
                "chunks": len(own),
                "pairs": pairs,
                "seconds": seconds,
                "pairs_per_second": pairs / seconds if seconds else None,
            }
        )
    return rows


def _timeline(commits: Sequence[Commit]) -> dict[str, Any]:
    """Return pairs a second of each actor in bins of equal time.

    The pairs of a chunk are spread evenly over the seconds that it took.
    """
    if not commits:
        return {"bin_seconds": 0.0, "pairs_per_second": {}}
    start = min(commit.work.started_at for commit in commits)
    stop = max(commit.work.started_at + commit.work.seconds for commit in commits)
    width = max(stop - start, 1e-9) / _NUM_BINS
    rates: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * _NUM_BINS)
    for commit in commits:
        first = commit.work.started_at - start
        last = first + commit.work.seconds
        for number in range(int(first / width), min(_NUM_BINS, int(last / width) + 1)):
            overlap = min(last, (number + 1) * width) - max(first, number * width)
            rates[commit.work.actor][number] += (
                _num_generated(commit) * max(overlap, 0.0) / max(commit.work.seconds, 1e-9) / width
            )
    return {"bin_seconds": width, "pairs_per_second": dict(rates)}


def _samples(output: Location, names: Sequence[str], schema: Any) -> list[dict[str, Any]]:
    """Return the first rows of the first files, at most three of each file."""
    rows: list[dict[str, Any]] = []
    for name in sorted(names)[: _NUM_SAMPLES // 2]:
        rows += read_table(output.at(name), schema).slice(0, 3).to_pylist()
    return rows[:_NUM_SAMPLES]

"""What `xrec annotate` costs without a language model: seconds and memory by the number of reviews.

    python -m benchmarks.annotate [--reviews 10000 100000 1000000] [--rows-per-chunk 4096]
        [--output workspace/benchmarks/annotate]

Synthetic reviews of some 60 words are written as gzipped JSON Lines: ten a user on average, a
hundred an item, with the popularity of both as in a shop. Then `xrec annotate`, with Ray, is run in
a process of its own. A line of the result is one number of reviews:

| field | what it is |
|---|---|
| `seconds` | of the whole job by the clock, Ray's start included |
| `cpu_seconds` | of the job's process and its actors |
| `keep_s` | reading, filtering, splitting and storing the reviews, and learning the phrases |
| `items_s`, `users_s`, `pairs_s` | each stage, by its commits |
| `peak_mb` | greatest memory of the job's process and its actors together (Linux's PSS) |
| `load` | of the machine in the minute before |
"""

import argparse
import gzip
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil


def _words(text: str) -> list[str]:
    return text.split()


_ASPECTS = _words(
    "tone sound build quality price size weight finish color grip battery display screen cable "
    "case sustain action setup volume clarity warmth feel fit design control knob switch strap "
    "service menu coffee patio music dessert staff plot characters ending pace cover"
)
_GOOD = _words("great warm solid crisp smooth reliable bright lovely comfortable clear rich sturdy")
_BAD = _words("flimsy noisy dull muddy overpriced cramped")
_SENTENCES = (
    "The {a} is {g} and the {b} is {h}.",
    "I love the {a}, and my friends were surprised by how {g} it was on the first day.",
    "It has a {g} {a} for what I paid at the store around the corner last spring.",
    "We used it for {n} weeks and the {a} still works as it did when it was new.",
    "My only complaint is the {x} {b}, but I can live with that at this price.",
    "It is easy to use, and it came with a {h} {b} that I had not expected at all.",
    "Compared with the other one that I had before, the {a} is much better in every way.",
    "I bought this for my brother, who plays with it every evening after work.",
    "There is not much more to say about it, except that I would buy it again.",
)


def sample_reviews(num_reviews: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Reviews of `num_reviews` / 10 users and a tenth as many items, each pair once at most."""
    rng = np.random.default_rng(seed)
    num_users, num_items = max(4, num_reviews // 10), max(4, num_reviews // 100)
    users = (num_users * rng.random(num_reviews) ** 1.5).astype(int)
    items = (num_items * rng.random(num_reviews) ** 2).astype(int)
    for number in range(num_reviews):
        chosen = rng.integers(0, len(_SENTENCES), 5)
        words = rng.integers(0, 1_000_000, 6)
        filled = {
            "a": _ASPECTS[words[0] % len(_ASPECTS)],
            "b": _ASPECTS[words[1] % len(_ASPECTS)],
            "g": _GOOD[words[2] % len(_GOOD)],
            "h": _GOOD[words[3] % len(_GOOD)],
            "x": _BAD[words[4] % len(_BAD)],
            "n": int(words[5] % 50),
        }
        yield {
            "user_id": f"user-{users[number]}",
            "item_id": f"item-{items[number]}",
            "rating": float(5 - words[5] % 2 - 2 * (words[4] % 20 == 0)),
            "summary": f"A {filled['g']} {filled['a']}",
            "review": " ".join(_SENTENCES[each] for each in chosen).format(**filled),
            "time": number,
        }


def write_reviews(path: Path, num_reviews: int) -> None:
    """Write them as gzipped JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", compresslevel=1) as file:
        for row in sample_reviews(num_reviews):
            file.write(json.dumps(row) + "\n")


def measured(folder: Path, num_reviews: int, rows_per_chunk: int) -> dict[str, Any]:
    """The fields of one run, in a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    write_reviews(folder / "reviews.jsonl.gz", num_reviews)
    load = os.getloadavg()[0]
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_annotate, args=(str(folder), rows_per_chunk, child))
    started = time.monotonic()
    process.start()
    peak, cpu = _watched(psutil.Process(process.pid), process)
    process.join()
    assert process.exitcode == 0, process.exitcode
    return {
        "reviews": num_reviews,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / 2**20),
        "load": round(load, 1),
        **parent.recv(),
    }


def _annotate(folder: str, rows_per_chunk: int, pipe: Any) -> None:
    import jobs.annotate
    from xrec.annotate import driver, store
    from xrec.config.annotate import AnnotateConfig
    from xrec.config.base import parse_config

    config = parse_config(
        AnnotateConfig,
        {
            "workspace": f"{folder}/workspace",
            "source": {"kind": "reviews", "uri": f"{folder}/reviews.jsonl.gz"},
            "rows_per_chunk": rows_per_chunk,
        },
    )
    seconds: dict[str, float] = {}
    complete = driver._complete_stage

    def timed_keep(*arguments: Any) -> Any:
        started = time.monotonic()
        record = store.keep_source(*arguments)
        seconds["keep_s"] = round(time.monotonic() - started, 1)
        return record

    def timed_complete(config: Any, spec: Any, stage: Any, *planned: Any) -> Any:
        started = time.monotonic()
        made = complete(config, spec, stage, *planned)
        seconds[f"{stage}_s"] = round(time.monotonic() - started, 1)
        return made

    with (
        patch.object(jobs.annotate, "keep_source", timed_keep),
        patch.object(driver, "_complete_stage", timed_complete),
    ):
        manifest = jobs.annotate.run(config)
    assert manifest is not None
    pipe.send({**seconds, "rows": manifest.row_counts})


def _watched(root: psutil.Process, process: Any) -> tuple[int, float]:
    """The greatest memory of the process with its actors, and their CPU seconds."""
    peak, cpu = 0, dict[int, float]()
    while process.is_alive():
        total = 0
        for each in [root, *_children(root)]:
            try:
                times = each.cpu_times()
                cpu[each.pid] = times.user + times.system
                if each.pid == root.pid or "ChunkActor" in each.cmdline()[0]:
                    total += each.memory_full_info().pss
            except (psutil.Error, IndexError):
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak, sum(cpu.values())


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return list(root.children(recursive=True))
    except psutil.Error:
        return []


def slope(rows: Sequence[dict[str, Any]], field: str) -> float:
    """The exponent of a field by the number of reviews, between the last two sizes."""
    first, last = rows[-2], rows[-1]
    return math.log(last[field] / first[field]) / math.log(last["reviews"] / first["reviews"])


def main() -> None:
    """Measure each size, print a line each, and write them all to annotate.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rows-per-chunk", type=int, default=4096)
    parser.add_argument("--output", default="workspace/benchmarks/annotate")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    rows = []
    for num_reviews in arguments.reviews:
        folder = output / str(num_reviews)
        rows.append(measured(folder, num_reviews, arguments.rows_per_chunk))
        shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201
        (output / "annotate.json").write_text(json.dumps(rows, indent=2) + "\n")
    if len(rows) > 1:
        found = {field: round(slope(rows, field), 2) for field in ("cpu_seconds", "peak_mb")}
        print(f"slopes between the last two sizes: {found}")  # noqa: T201


if __name__ == "__main__":
    main()

"""What tonight will do and cost, estimated from the nights before: `xrec refresh --dry-run`."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import median
from typing import cast

from xrec.backfill import last_night, present
from xrec.backfill.identity import identify_unchecked, shared_key
from xrec.bulk import Identity, open_log, use_of
from xrec.config import BackfillConfig, JobConfig
from xrec.nights.plan import Night
from xrec.progress import duration, short
from xrec.storage import Manifest, location_of

_NUM_NIGHTS = 7


def forecast(night: Night, configs: Mapping[str, JobConfig]) -> Iterator[str]:
    """Yield lines: the jobs with their time, and the rows, tokens and money of the texts.

    Rows and jobs are expected to take what they took in the last nights. Raises
    ArtifactNotFoundError if nothing is published.
    """
    config = cast(BackfillConfig, configs["backfill"])
    number, _ = last_night(config)
    record = location_of(config, "nights") / str(number) / "costs.json"
    costs = json.loads(record.read_text()) if record.is_file() else {}
    yield night.title
    for name in night.jobs:
        seconds = costs.get(name, {}).get("seconds")
        took = "no earlier night to compare with" if seconds is None else f"{duration(seconds)}"
        yield f"  {name}: {took}"
    log = open_log(location_of(config, "explanations"))
    history = list(islice(log.history(), _NUM_NIGHTS)) if log else []
    if not history:
        yield "explanations: unknown, because nothing is published"
        return
    num_rows = _num_rows(history[0])
    why, share = _share_to_write(night, config, history)
    num_written = round(share * num_rows)
    yield f"explanations: about {num_rows:,}, of which {num_written:,} are written: {why}"
    paid = [manifest for manifest in history if _num_written(manifest)]
    if not paid or not num_written:
        return
    uses = [use_of(manifest.metrics["costs"], config.prices) for manifest in paid]
    for name in uses[0]:
        each = (use[name] / _num_written(made) for use, made in zip(uses, paid, strict=True))
        yield f"  {name}: {short(median(each) * num_written)}"


def _share_to_write(
    night: Night, config: BackfillConfig, history: list[Manifest]
) -> tuple[str, float]:
    """Return the expected share of rows that are not carried over, and why."""
    now = identify_unchecked(present(config))
    latest = history[0]
    before = Identity(kind=now.kind, config=latest.config, inputs=latest.inputs)
    if config.carry_from is None:
        return "carry_from is null", 1.0
    if night.trains and config.writer == "adapter":
        return "the adapter is trained", 1.0
    if shared_key(now) != shared_key(before):
        return "model or settings differ from the published ones", 1.0
    if night.folder is None:
        return "the raw files did not change", 0.0
    later = [manifest for manifest in history if manifest.metrics.get("num_carried")]
    if not later:
        return "no earlier night to compare with", 1.0
    shares = [_num_written(manifest) / max(1, _num_rows(manifest)) for manifest in later]
    return f"as in the median of {len(later)} nights", median(shares)


def _num_rows(manifest: Manifest) -> int:
    return manifest.row_counts["explanations"] + manifest.row_counts["failed"]


def _num_written(manifest: Manifest) -> int:
    return _num_rows(manifest) - int(manifest.metrics.get("num_carried", 0))

"""A comparison from beginning to end: pairs, texts, scores, table; then what people are asked."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import SecretStr

from xrec.config.compare import CompareConfig
from xrec.data.dataset import read_dataset
from xrec.data.splits import drawn_pairs
from xrec.errors import ArtifactNotFoundError, ModelError
from xrec.lab.compare.entries import Entry, entries_of
from xrec.lab.compare.likelihoods import WeighAll, weigh_entries, weigh_on_ray, with_likelihoods
from xrec.lab.compare.make import Inputs, elsewhere_texts, make
from xrec.lab.compare.pairs import SEED, compared_pairs, write_pairs
from xrec.lab.compare.people import ask_people
from xrec.lab.compare.result import TABLE, Result, result_of, result_table
from xrec.lab.compare.scores import ScoreAll, Scored, score_entries, score_on_ray
from xrec.lab.compare.table import Example, markdown_page
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.judge import agreement_lines
from xrec.storage import (
    MANIFEST,
    Manifest,
    location_of,
    read_manifest,
    run_fingerprint,
    write_contents,
    write_manifest,
    write_table,
)

logger = logging.getLogger("xrec")

Make = Callable[[Inputs, Entry], EntryTexts]
_NUM_EXAMPLES = 20
_SCORES = "scores"
"""Of the manifest's metrics, the fingerprints of the scores that the table is of."""
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Work:
    """How texts are made, scored and weighed; on Ray, which must be initialised for it."""

    make: Make = make
    score_all: ScoreAll = score_on_ray
    weigh_all: WeighAll = weigh_on_ray


def compare(
    config: CompareConfig,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    keys: Mapping[str, SecretStr | None] | None = None,
    work: Work | None = None,
) -> Manifest:
    """Make, score and compare what is not done yet; returns the comparison's manifest.

    settings, inputs: what `comparison_identity` returns. keys: of judges that are endpoints.

    Raises what trainings, bulk runs and scoring raise; what is done stays, and the next call goes
    on from there.
    """
    work = work or Work()
    dataset = read_dataset(location_of(config, "dataset"))
    pairs = compared_pairs(config, dataset)
    given = Inputs(config, dataset, write_pairs(location_of(config, "comparison"), pairs))
    entries = [entry for of_contestant in entries_of(config).values() for entry in of_contestant]
    # Tables from elsewhere may be wrong, so they are read before anything is trained.
    there = {
        entry: elsewhere_texts(given, entry)
        for entry in entries
        if entry.contestant in config.texts
    }
    made = {entry: there[entry] if entry in there else work.make(given, entry) for entry in entries}
    scored = score_entries(config, given.pairs, made, keys or {}, work.score_all)
    weighed = weigh_entries(config, given.pairs, entries, work.weigh_all)
    manifest = _finished(config, settings, inputs, scored)
    if manifest is None:
        measured = {
            entry: replace(each, table=with_likelihoods(each.table, weighed.get(entry)))
            for entry, each in scored.items()
        }
        notes = _agreement(config, _first_seeds(scored))
        result = result_of(config, dataset, pairs, made, measured, notes)
        manifest = _write(given, result, made, scored, settings, inputs)
    ask_people(given, _first_seeds(made))
    return manifest


def check_packages(config: CompareConfig) -> None:
    """Raise ModelError if a package is not installed that some comparisons need."""
    needed = {
        "peft": ("lora" in config.contestants, "the contestant lora"),
        "krippendorff": (bool(config.blind_sheet.answers), "the agreement of judges"),
    }
    for package, (is_needed, why) in needed.items():
        if is_needed and importlib.util.find_spec(package) is None:
            raise ModelError(
                f"{why} needs the package {package}, which is not installed; "
                "run: pip install 'xrec[compare]'"
            )


def _finished(
    config: CompareConfig,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    scored: Mapping[Entry, Scored],
) -> Manifest | None:
    """The manifest of this very comparison, of these scores; None if there is none, or another's.

    Another one's table is written again: all that cost anything is in the entries' folders, and
    these refuse what does not fit.
    """
    try:
        manifest = read_manifest(location_of(config, "comparison"), "comparison")
    except ArtifactNotFoundError:
        return None
    is_same = manifest.run == run_fingerprint("comparison", settings, inputs)
    return manifest if is_same and manifest.metrics[_SCORES] == _fingerprints(scored) else None


def _fingerprints(scored: Mapping[Entry, Scored]) -> dict[str, str]:
    return {entry.name: each.fingerprint for entry, each in scored.items()}


def _agreement(config: CompareConfig, scored: Mapping[str, Scored]) -> tuple[str, ...]:
    """How far the judges agree about each contestant's texts."""
    judges = [judge.name for judge in config.metrics.judges]
    drawing = {"num_samples": config.bootstrap_samples, "seed": SEED}
    return tuple(
        line
        for name, each in scored.items()
        for line in agreement_lines(name, each.table, judges, **drawing)
    )


def _write(
    given: Inputs,
    result: Result,
    made: Mapping[Entry, EntryTexts],
    scored: Mapping[Entry, Scored],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write the files, and the manifest last; an earlier comparison's is deleted first."""
    config, pairs = given.config, given.pairs.pairs
    location = location_of(config, "comparison")
    titles = given.dataset.items["title"].combine_chunks()
    texts = {name: each.texts for name, each in _first_seeds(made).items()}
    examples = [
        Example(
            pair,
            titles[pair.item_index].as_py(),
            {name: of_pairs.get((pair.user_id, pair.item_id)) for name, of_pairs in texts.items()},
        )
        for pair in drawn_pairs(pairs, _NUM_EXAMPLES, seed=SEED)
    ]
    page = markdown_page(result, pairs, _failed(made), examples)
    (location / MANIFEST).delete()
    files = {"table.parquet": write_table(location / "table.parquet", result_table(result), TABLE)}
    files |= write_contents(location, {"table.md": page})
    manifest = write_manifest(
        location,
        "comparison",
        config=settings,
        inputs=inputs,
        files=files,
        row_counts={"pairs": len(pairs), "contestants": len(result.contestants)},
        metrics={_SCORES: _fingerprints(scored)},
    )
    logger.info("%d contestants: %s", len(result.contestants), config.artifact("comparison"))
    return manifest


def _failed(made: Mapping[Entry, EntryTexts]) -> dict[str, dict[str, int]]:
    """Of each contestant, the pairs without a text by reason, over all of its seeds."""
    found: dict[str, dict[str, int]] = {}
    for entry, each in made.items():
        for reason, count in each.failed.items():
            reasons = found.setdefault(entry.contestant, {})
            reasons[reason] = reasons.get(reason, 0) + count
    return found


def _first_seeds(by_entry: Mapping[Entry, _Value]) -> dict[str, _Value]:
    """What belongs to the first seed of each contestant."""
    found: dict[str, _Value] = {}
    for entry, value in by_entry.items():
        found.setdefault(entry.contestant, value)
    return found

"""A comparison from beginning to end: pairs, texts, scores, table."""

import importlib.util
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import SecretStr

from xrec.config import CompareConfig
from xrec.data import drawn_pairs, read_dataset
from xrec.errors import ModelError, install_command
from xrec.lab.compare.entries import Entry, compared_pairs, entries_of, write_pairs
from xrec.lab.compare.formats import other_formats
from xrec.lab.compare.make import Inputs, elsewhere_texts, make
from xrec.lab.compare.result import TABLE, Result, result_of, result_table
from xrec.lab.compare.scores import score_entries
from xrec.lab.compare.table import Example, markdown_page
from xrec.lab.compare.texts import ALL_TEXTS, EntryTexts
from xrec.lab.measures.judge import agreement_lines
from xrec.lab.measures.measures import ranker_tables
from xrec.storage import (
    MANIFEST,
    Manifest,
    location_of,
    write_contents,
    write_manifest,
    write_table,
)

logger = logging.getLogger("xrec")

_NUM_EXAMPLES = 20
_Value = TypeVar("_Value")


def check_packages(config: CompareConfig) -> None:
    """Raise ModelError if the entry lora is there and its package is not installed."""
    if "lora" in config.entries and importlib.util.find_spec("peft") is None:
        raise ModelError(
            "the entry lora needs the package peft, which is not installed; "
            f"run: {install_command('compare')}",
            code="package_missing",
            key="entries",
            saw="lora",
        )


def compare(
    config: CompareConfig,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    keys: Mapping[str, SecretStr | None] | None = None,
) -> Manifest:
    """Make, score and compare what is not done yet; returns the comparison's manifest.

    settings, inputs: what `comparison_identity` returns. keys: of judges that are endpoints.

    Ray must be initialised. Raises what trainings, bulk runs and scoring raise; what is done stays,
    and the next call goes on from there.
    """
    dataset = read_dataset(location_of(config, "dataset"))
    pairs = compared_pairs(config, dataset)
    given = Inputs(config, dataset, write_pairs(location_of(config, "comparison"), pairs))
    entries = entries_of(config)
    # Tables from elsewhere may be wrong, so they are read before anything is trained.
    there = {
        entry: elsewhere_texts(config, entry, given.pairs)
        for entry in entries
        if entry.name in config.texts
    }
    made = {entry: there[entry] if entry in there else make(given, entry) for entry in entries}
    scored = score_entries(config, given.pairs, made, keys or {})
    judges = [*config.judges]
    notes = tuple(
        line
        for name, each in _first_seeds(scored).items()
        for line in agreement_lines(name, each.table, judges)
    )
    rankings = ranker_tables(dataset, pairs)
    result = result_of(config, dataset, made, scored, notes, rankings)
    return _write(given, result, made, settings, inputs)


def _write(
    given: Inputs,
    result: Result,
    made: Mapping[Entry, EntryTexts],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write the files, and the manifest last; an earlier comparison's is deleted first."""
    config, pairs = given.config, given.pairs.pairs
    location = location_of(config, "comparison")
    titles = given.dataset.items["title"]
    texts = {name: each.texts for name, each in _first_seeds(made).items()}
    examples = [
        Example(
            pair,
            titles[pair.item_index].as_py(),
            {name: of_pairs.get(pair.ids) for name, of_pairs in texts.items()},
        )
        for pair in drawn_pairs(pairs, _NUM_EXAMPLES)
    ]
    page = markdown_page(result, pairs, _failed(made), examples)
    (location / MANIFEST).delete()
    rows = [(*pair.ids, name, each.get(pair.ids)) for name, each in texts.items() for pair in pairs]
    all_texts = pa.Table.from_pylist(
        [dict(zip(ALL_TEXTS.names, row, strict=True)) for row in rows], ALL_TEXTS
    )
    tables = {"table": (result_table(result), TABLE), "texts": (all_texts, ALL_TEXTS)}
    files = {
        f"{name}.parquet": write_table(location / f"{name}.parquet", *table)
        for name, table in tables.items()
    }
    files |= write_contents(location, {"table.md": page, **other_formats(result)})
    manifest = write_manifest(
        location,
        "comparison",
        config=settings,
        inputs=inputs,
        files=files,
        row_counts={"pairs": len(pairs), "entries": len(result.entries)},
        metrics={},
    )
    logger.info("%d entries: %s", len(result.entries), config.artifact("comparison"))
    return manifest


def _failed(made: Mapping[Entry, EntryTexts]) -> Mapping[str, Mapping[str, int]]:
    """Of each entry, the pairs without a text by reason, over all of its seeds."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry, each in made.items():
        if each.failed:
            found[entry.name].update(each.failed)
    return found


def _first_seeds(by_entry: Mapping[Entry, _Value]) -> dict[str, _Value]:
    """What belongs to the first seed of each entry, by its name."""
    found: dict[str, _Value] = {}
    for entry, value in by_entry.items():
        found.setdefault(entry.name, value)
    return found

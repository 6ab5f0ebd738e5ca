"""Comparisons in a small town without a language model, training or Ray."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.world.shop import with_uris
from tests.world.workspace import PROMPT, build_workspace
from xrec.config import CompareConfig, parse_config
from xrec.lab.compare.comparison import compare
from xrec.lab.compare.entries import Entry, comparison_identity
from xrec.lab.compare.make import Inputs, make
from xrec.lab.compare.texts import EntryTexts
from xrec.storage import Manifest

MakeConfig = Callable[..., CompareConfig]


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """Dataset, graph and language model; tests must not change them."""
    return build_workspace(tmp_path_factory.mktemp("compare"), num_users=24)


@pytest.fixture
def make_config(town, tmp_path):
    """Make the config of a comparison in the test's own folder; values replace the defaults."""

    def make(**values: Any) -> CompareConfig:
        defaults = {
            "workspace": town,
            "comparison": str(tmp_path / "comparison"),
            "entries": ["profile", "nearest"],
            "llm": {"model": f"{town}/llm", "dtype": "float32"},
            "prompt": PROMPT,
            "encoder": None,
            "actors": {"device": "cpu"},
        }
        return parse_config(CompareConfig, with_uris({**defaults, **values}))

    return make


_KEPT = {"ours": 0.8, "constant": 0.4, "lora": 0.6}
"""The share of the reference's words that an entry's text has."""


@dataclass
class Done:
    """The entries that a comparison made, and the number of texts that it scored."""

    made: list[str] = field(default_factory=list)
    num_scored: int = 0

    def make(self, given: Inputs, entry: Entry) -> EntryTexts:
        """Return an entry's texts; those of trained ones are references that lack some words."""
        if not entry.location.exists():
            self.made.append(entry.title)
        return (_from_references if entry.name in _KEPT else make)(given, entry)

    def score(self, make: Any, texts: Sequence[Any], **_: Any) -> Any:
        """Do what `map_in_processes` does, in this process."""
        self.num_scored += len(texts)
        return enumerate(map(make(), texts))


def _from_references(given: Inputs, entry: Entry) -> EntryTexts:
    rng = random.Random(entry.title)
    texts: dict[tuple[str, str], str | None] = {}
    for pair in given.pairs.pairs:
        words = [word for word in pair.reference.split() if rng.random() < _KEPT[entry.name]]
        texts[pair.ids] = " ".join(words) if rng.random() < 0.9 else None
    costs = {"training_seconds": 12.0, "num_trained_parameters": 100, "pairs_per_second": 3.0}
    return EntryTexts.of(texts, **costs)


def run(config: CompareConfig, done: Done | None = None) -> Manifest:
    done = done or Done()
    settings, inputs = comparison_identity(config, "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.lab.compare.comparison.make", done.make)
        patch.setattr("xrec.lab.compare.scores.map_in_processes", done.score)
        return compare(config, settings, inputs)


def figures(config: CompareConfig) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows of a finished comparison by entry and metric."""
    rows = pq.read_table(Path(config.artifact("comparison")) / "table.parquet").to_pylist()
    return {(row["entry"], row["metric"]): row for row in rows}

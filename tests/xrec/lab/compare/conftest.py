"""Comparisons in a small town without a language model and without Ray.

Texts of entries that train are made from references.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
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
    return build_workspace(tmp_path_factory.mktemp("compare"))


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
    """What a comparison did: the entries that were made new, and the texts that were scored.

    stop_at: the number of the step, counted over making and scoring, before which it is killed.
    """

    stop_at: int | None = None
    made: list[str] = field(default_factory=list)
    num_scored: int = 0
    num_steps: int = 0

    def step(self) -> None:
        self.num_steps += 1
        if self.num_steps == self.stop_at:
            raise KeyboardInterrupt

    def make(self, given: Inputs, entry: Entry) -> EntryTexts:
        """The texts of an entry; those that train are references with words left out by chance."""
        is_new = not entry.location.exists()
        self.step()
        found = (_from_references if entry.name in _KEPT else make)(given, entry)
        if is_new:
            self.made.append(entry.title)
        return found

    def score(self, make: Any, texts: Sequence[Any], **_: Any) -> Any:
        """As `map_in_processes`, in this one."""
        score = make()
        for place, each in enumerate(texts):
            self.step()
            self.num_scored += 1
            yield place, score(each)


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


def table(config: CompareConfig) -> pa.Table:
    """The table of a finished comparison, read without xrec."""
    return pq.read_table(Path(config.artifact("comparison")) / "table.parquet")


def figures(config: CompareConfig) -> dict[tuple[str, str], dict[str, Any]]:
    rows = table(config).to_pylist()
    return {(row["entry"], row["metric"]): row for row in rows}

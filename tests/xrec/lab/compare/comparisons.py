"""Comparisons without a language model and without Ray: seeded texts are made from references."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.config.compare import CompareConfig
from xrec.lab.compare.computed import Computed
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.identity import comparison_identity
from xrec.lab.compare.made import Costs, Made, keep_texts, kept_texts
from xrec.lab.compare.make import Given, make
from xrec.lab.compare.run import compare
from xrec.lab.compare.score import ScoringTask, score_here
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.storage import Manifest

ON_CPU = Computed("cpu", {"dtype": "float32", "device": "cpu", "engine": "transformers"})
_KEPT = {"ours": 0.8, "constant": 0.4, "lora": 0.6}
"""The share of the reference's words that a contestant's text has."""


@dataclass
class Work:
    """What a comparison did: the entries that were made new, and the texts that were scored.

    stop_at: the number of the step, counted over making and scoring, before which it is killed.
    """

    stop_at: int | None = None
    made: list[str] = field(default_factory=list)
    num_scored: int = 0
    num_steps: int = 0

    def step(self) -> None:
        """Count a step, or be killed."""
        self.num_steps += 1
        if self.num_steps == self.stop_at:
            raise KeyboardInterrupt

    def make(self, given: Given, entry: Entry) -> Made:
        """The texts of an entry; those that train are references with words left out by chance."""
        is_new = not entry.location.exists()
        self.step()
        if entry.contestant not in _KEPT:
            found = make(given, entry)
        else:
            found = _from_references(given, entry)
        if is_new:
            self.made.append(entry.name)
        return found

    def score(self, task: ScoringTask, texts: Sequence[ContestantTexts]) -> Any:
        """Score one after the other in this process."""
        for scored in score_here(task, texts):
            self.step()
            self.num_scored += 1
            yield scored


def _from_references(given: Given, entry: Entry) -> Made:
    rng = random.Random(f"{entry.name}")
    texts: dict[tuple[str, str], str | None] = {}
    for pair in given.pairs.pairs:
        words = [word for word in pair.reference.split() if rng.random() < _KEPT[entry.contestant]]
        texts[pair.user_id, pair.item_id] = " ".join(words) if rng.random() < 0.9 else None
    location = entry.location / "texts"
    manifest = keep_texts(location, texts, config={"seed": entry.seed}, inputs={})
    costs = Costs(training_seconds=12.0, num_trained_parameters=100, pairs_per_second=3.0)
    return dataclasses.replace(kept_texts(location, manifest), costs=costs)


def run(config: CompareConfig, work: Work | None = None) -> Manifest:
    """Compare without Ray."""
    work = work or Work()
    settings, inputs = comparison_identity(config, "model", ON_CPU)
    return compare(config, settings, inputs, make_texts=work.make, score_all=work.score)


def table(config: CompareConfig) -> pa.Table:
    """The table of a finished comparison, read without xrec."""
    return pq.read_table(Path(config.artifact("comparison")) / "table.parquet")


def figures(config: CompareConfig, group: str = "all") -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a group by contestant and metric."""
    rows = table(config).to_pylist()
    return {(row["contestant"], row["metric"]): row for row in rows if row["group"] == group}

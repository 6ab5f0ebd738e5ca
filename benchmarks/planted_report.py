"""The report on all variants and seeds: a table with intervals.

A variant's figure is over the pairs of all its seeds. Intervals draw users, and a user's pairs of
all seeds are drawn together. Differences are paired: they are over the same pairs, of the seeds
that both variants have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted_data import UNSEEN_PAIRS, UNSEEN_USERS
from benchmarks.planted_variants import CONSTANT, VARIANTS
from benchmarks.report import Record
from xrec.evaluate.intervals import mean_interval

Key = tuple[str, str]  # settings, variant


@dataclass(frozen=True)
class Report:
    """The last record of each settings, variant and seed; all records have the same inputs."""

    records: dict[Key, dict[int, Record]]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Report":
        """Return the report on the records whose inputs are those of the last one."""
        found: dict[Key, dict[int, Record]] = {}
        for record in records:
            if record["inputs"] == records[-1]["inputs"]:
                found.setdefault((record["settings"], record["variant"]), {})[record["seed"]] = (
                    record
                )
        order = sorted(found, key=lambda key: (key[0] != "", key[0], list(VARIANTS).index(key[1])))
        return cls({key: found[key] for key in order})

    def rows(self) -> list[Record]:
        """Return a row for each settings, variant and kind of pairs.

        The difference is that to `constant` with the same settings.
        """
        return [
            self._row(key, kind) for kind in (UNSEEN_PAIRS, UNSEEN_USERS) for key in self.records
        ]

    def _row(self, key: Key, kind: str) -> Record:
        seeds, baseline = self.records[key], self.records.get((key[0], CONSTANT), {})
        both = {seed: seeds[seed] for seed in seeds if seed in baseline}
        minus = ""
        if both and key[1] != CONSTANT:
            others = _values({seed: baseline[seed] for seed in both}, kind, "right")
            minus = _shown(_values(both, kind, "right") - others, both, kind)
        own, nll = _values(seeds, kind, "right"), _values(seeds, kind, "nll")
        of_kind = [record["scores"][kind] for _, record in sorted(seeds.items())]
        losses = [_best_loss(record) for record in seeds.values()]
        seconds = [sum(record["seconds"].values()) for record in seeds.values()]
        return {
            "pairs": kind,
            "settings": key[0] or "as in the config",
            "variant": key[1],
            "seeds": len(seeds),
            "scored": own.size,
            "aspect accuracy": _shown(own, seeds, kind),
            "by seed": ", ".join(f"{np.mean(scores['right']):.3f}" for scores in of_kind),
            "another user's": _shown(_values(seeds, kind, "right_shuffled"), seeds, kind),
            "chance": round(float(np.mean([scores["chance"] for scores in of_kind])), 3),
            "minus constant": minus,
            "NLL": _shown(nll, seeds, kind),
            "gain": _shown(_values(seeds, kind, "nll_shuffled") - nll, seeds, kind),
            "validation loss": round(float(np.mean(losses)), 4),
            "seconds": round(float(np.mean(seconds))),
        }


def _values(seeds: dict[int, Record], kind: str, name: str) -> NDArray[np.float64]:
    return np.concatenate(
        [np.asarray(seeds[seed]["scores"][kind][name], dtype=np.float64) for seed in sorted(seeds)]
    )


def _shown(values: NDArray[np.float64], seeds: dict[int, Record], kind: str) -> str:
    users = [user for seed in sorted(seeds) for user in seeds[seed]["scores"][kind]["user_id"]]
    return mean_interval(values, users).text(3)


def _best_loss(record: dict[str, Any]) -> float:
    return min((row["validation_loss"] for row in record["history"]), default=float("nan"))

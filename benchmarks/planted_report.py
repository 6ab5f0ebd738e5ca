"""The report on all variants and seeds: a table with intervals, and a plot.

A variant's figure is over the pairs of all its seeds. Intervals draw users, and a user's pairs of
all seeds are drawn together. Differences are paired: they are over the same pairs, of the seeds
that both variants have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.graph_results import Record
from benchmarks.planted_data import UNSEEN_PAIRS, UNSEEN_USERS
from benchmarks.planted_variants import CONSTANT, VARIANTS
from xrec.evaluate.bootstrap import Estimate, bootstrap_mean

_NUM_SAMPLES = 2000
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
        seeds = self.records[key]
        own, users = _values(seeds, kind, "right"), _users(seeds, kind)
        baseline = self.records.get((key[0], CONSTANT), {})
        both = {seed: seeds[seed] for seed in seeds if seed in baseline}
        difference = (
            _values(both, kind, "right")
            - _values({seed: baseline[seed] for seed in both}, kind, "right")
            if both
            else None
        )
        return {
            "pairs": kind,
            "settings": key[0] or "as in the config",
            "variant": key[1],
            "seeds": len(seeds),
            "scored": own.size,
            "aspect accuracy": _shown(_mean(own, users)),
            "by seed": ", ".join(
                f"{np.mean(record['scores'][kind]['right']):.3f}"
                for _, record in sorted(seeds.items())
            ),
            "another user's": _shown(_mean(_values(seeds, kind, "right_shuffled"), users)),
            "chance": round(
                float(np.mean([record["scores"][kind]["chance"] for record in seeds.values()])), 3
            ),
            "minus constant": ""
            if difference is None or key[1] == CONSTANT
            else _shown(_mean(difference, _users(both, kind))),
            "NLL": _shown(_mean(_values(seeds, kind, "nll"), users)),
            "gain": _shown(
                _mean(_values(seeds, kind, "nll_shuffled") - _values(seeds, kind, "nll"), users)
            ),
            "validation loss": round(
                float(np.mean([_best_loss(record) for record in seeds.values()])), 4
            ),
            "seconds": round(
                float(np.mean([sum(record["seconds"].values()) for record in seeds.values()]))
            ),
        }


def plot(report: Report, path: Path) -> None:
    """Plot aspect accuracy with its interval, a panel for each kind of pairs.

    It is shown with the user's own vector and with another user's.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = list(report.records)
    figure, panels = pyplot.subplots(
        1, 2, figsize=(13, 1.2 + 0.4 * len(keys)), sharey=True, squeeze=False
    )
    for kind, axes in zip((UNSEEN_PAIRS, UNSEEN_USERS), panels[0], strict=True):
        for name, color, shift in (("right", "C0", -0.12), ("right_shuffled", "C1", 0.12)):
            estimates = [
                _mean(_values(report.records[key], kind, name), _users(report.records[key], kind))
                for key in keys
            ]
            places = np.arange(len(keys)) + shift
            values = np.array(
                [[estimate.low, estimate.value, estimate.high] for estimate in estimates],
                dtype=np.float64,
            ).T
            errors = np.stack([values[1] - values[0], values[2] - values[1]])
            label = "own vector" if name == "right" else "another user's"
            axes.errorbar(
                values[1], places, xerr=errors, fmt="o", color=color, capsize=3, label=label
            )
        chance = np.mean(
            [
                record["scores"][kind]["chance"]
                for seeds in report.records.values()
                for record in seeds.values()
            ]
        )
        axes.axvline(float(chance), color="grey", linestyle=":", label="chance")
        axes.set(xlim=(0, 1), xlabel="aspect accuracy, 95 % by user", title=kind)
        axes.grid(alpha=0.3, axis="x")
    panels[0][0].set_yticks(
        range(len(keys)), [f"{variant}  {settings}".strip() for settings, variant in keys]
    )
    panels[0][0].invert_yaxis()
    panels[0][1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _values(seeds: dict[int, Record], kind: str, name: str) -> NDArray[np.float64]:
    return np.concatenate(
        [np.asarray(seeds[seed]["scores"][kind][name], dtype=np.float64) for seed in sorted(seeds)]
    )


def _users(seeds: dict[int, Record], kind: str) -> list[str]:
    return [user for seed in sorted(seeds) for user in seeds[seed]["scores"][kind]["user_id"]]


def _mean(values: NDArray[np.float64], users: list[str]) -> Estimate:
    return bootstrap_mean(values, users, num_samples=_NUM_SAMPLES, seed=0)


def _shown(estimate: Estimate) -> str:
    return estimate.text(3)


def _best_loss(record: dict[str, Any]) -> float:
    return min((row["validation_loss"] for row in record["history"]), default=float("nan"))

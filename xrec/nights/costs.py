"""The costs of a night's jobs, the budget that they share, and the page that reports both.

nights/N/costs.json     the cost of each job, over all starts of this night
nights/N/report.html    the same as a table, with charts and all metrics of the run
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

from xrec.bulk import added, use_of, used_up
from xrec.config import BackfillConfig, BulkConfig, JobConfig
from xrec.errors import BudgetError
from xrec.nights.plan import Night
from xrec.progress import short
from xrec.storage import traffic

if TYPE_CHECKING:
    from markupsafe import Markup

_COSTS = (
    *("seconds", "cpu_hours", "gpu_hours", "tokens", "money"),
    *("store_requests", "bytes_read", "bytes_written"),
)


class NightCosts:
    """The costs of a night's jobs, including those of earlier starts of the night.

    The backfill's budget applies to all jobs; its prices apply to jobs without their own.
    """

    def __init__(self, night: Night):
        self.spend = cast(BackfillConfig, night.jobs["backfill"])
        self._folder, self._began = night.folder, time.monotonic()
        record = night.folder / "costs.json" if night.folder else None
        text = record.read_text() if record is not None and record.is_file() else "{}"
        self._jobs: dict[str, dict[str, float]] = json.loads(text)
        self._running: tuple[str, JobConfig, float] | None = None  # and its start time

    def total(self, without: str = "") -> dict[str, float]:
        """Return the costs of all jobs except one; money is only included if prices are set."""
        return reduce(added, (costs for n, costs in self._jobs.items() if n != without), {})

    def start(self, name: str, config: JobConfig) -> JobConfig:
        """Start counting a job; return its config with the rest of the budget.

        Raises BudgetError if the budget is used up.
        """
        is_bulk = isinstance(config, BulkConfig)  # it includes its earlier starts itself
        used = self.total(without=name if is_bulk else "")
        used["seconds"] = time.monotonic() - self._began
        if why := used_up(self.spend.budget, used):
            raise BudgetError(
                f"{why} before xrec {name}. Finished jobs are kept; run the same command again to "
                "continue, with a larger budget unless it was budget.seconds",
                code="budget_used_up",
                saw=name,
            )
        traffic()  # discard what was counted before the job
        self._running = name, config, time.monotonic()
        if not isinstance(config, BulkConfig):
            return config
        left = {kind: most - used.get(kind, 0) for kind, most in self.spend.budget.items()}
        own = {kind: min(most, left.get(kind, most)) for kind, most in config.budget.items()}
        prices = config.prices or self.spend.prices
        return config.model_copy(update={"budget": {**left, **own}, "prices": prices})

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Add the running job's costs, from its metrics if they report any, and save the record."""
        if self._running is None:
            return
        (name, config, since), self._running = self._running, None
        seconds = time.monotonic() - since
        before, costs = self._jobs.get(name, {}), metrics.get("costs")
        if costs:  # cover all starts of its run
            before = {"seconds": before.get("seconds", 0)}
        costs = costs or {**_worker_hours(config, seconds), **traffic()}
        prices = getattr(config, "prices", None) or self.spend.prices
        costs = added(before, {**costs, **use_of(costs, prices), "seconds": seconds})
        self._jobs[name] = {kind: costs[kind] for kind in _COSTS if kind in costs}
        self._write("costs.json", json.dumps(self._jobs, indent=1))

    def report(
        self, metrics: Mapping[str, Any], outcome: str, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """Print the costs of the jobs, write the page, and return the metrics with the total.

        outcome: how the night ended, without any text from the raw files.
        """
        metrics = {**metrics, "night": (total := self.total())}
        if not total:
            return metrics
        import pandas as pd  # takes half a second

        from xrec.evaluate.page import tables_page

        costs = pd.DataFrame({**self._jobs, "all jobs": total}).T
        costs = costs[[kind for kind in _COSTS if kind in total]]
        tell(costs.to_string(float_format=short, na_rep="-"))
        tables = {f"Night: {outcome}": costs, "All figures": pd.json_normalize(metrics).T}
        if self._write("report.html", tables_page(tables, _charts(self._jobs, metrics))):
            tell(f"report: {self._folder}/report.html")
        return metrics

    def _write(self, name: str, text: str) -> bool:
        """Write a file if a job has created the folder; return whether it was written."""
        if self._folder is None or not self._folder.exists():
            return False
        (self._folder / name).write_bytes(text.encode())
        return True


def _charts(jobs: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any]) -> list["Markup"]:
    """Return charts of the costs, of the texts by what became of them, and of the gate."""
    from xrec.evaluate.chart import Bar, bar_chart

    has_prices = any("money" in costs for costs in jobs.values())
    kind, unit = ("money", "in the currency of prices") if has_prices else ("seconds", "s")
    texts = {
        "carried over": metrics.get("num_carried", 0),
        **{f"written: {why}": count for why, count in metrics.get("written_again", {}).items()},
    }
    gate = metrics.get("gate", {})
    known = {name: value for name, value in gate.get("figures", {}).items() if value is not None}
    bounds = gate.get("bounds", {})
    by_job = [Bar(name, job.get(kind, 0)) for name, job in jobs.items()]
    by_kind = [Bar(name, count) for name, count in texts.items()]
    of_gate = [Bar(name, value, bounds.get(name)) for name, value in known.items()]
    return [
        bar_chart("Cost by job", unit, by_job),
        bar_chart("Texts of this night", "pairs", by_kind),
        bar_chart("Gate", "share or ratio; the line is the bound", of_gate),
    ]


def _worker_hours(config: JobConfig, seconds: float) -> dict[str, float]:
    """Return the hours of a training job's workers, or of one CPU for any other job."""
    workers, hours = getattr(config, "workers", None), seconds / 3600
    if workers is None:
        return {"cpu_hours": hours}
    from xrec.processes import gpus_each  # which imports Ray

    count, gpus = workers.num_processes, gpus_each(workers.device, workers.num_processes)
    return {"cpu_hours": workers.cpus * count * hours, "gpu_hours": gpus * count * hours}

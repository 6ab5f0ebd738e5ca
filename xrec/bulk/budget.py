"""What a run costs, and when to stop: budget, prices and the share of failed rows."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

from xrec.bulk.progress import Progress, Survey, costs_of_starts
from xrec.bulk.results import Summary, added
from xrec.bulk.run import BulkRun
from xrec.errors import BudgetError, ClusterError, GateError
from xrec.storage import traffic

Amounts = Mapping[Any, float]
Spent = Callable[[Summary], str]
"""A function that describes the part of a budget used up by all work so far, or returns ""."""
_PROMPTS = ("prompt_tokens", "num_prompt_tokens")
_REPLIES = ("reply_tokens", "num_generated_tokens")


def use_of(costs: Amounts, prices: Amounts) -> dict[str, float]:
    """Convert costs to the units of a budget: gpu_hours, tokens, and money if there are prices."""
    prompts, replies = (sum(costs.get(n, 0) for n in names) for names in (_PROMPTS, _REPLIES))
    amounts = {
        "cpu_hour": costs.get("cpu_hours", 0),
        "gpu_hour": costs.get("gpu_hours", 0),
        "million_prompt_tokens": prompts / 1e6,
        "million_reply_tokens": replies / 1e6,
        "million_store_requests": costs.get("store_requests", 0) / 1e6,
    }
    use = {"gpu_hours": amounts["gpu_hour"], "tokens": prompts + replies}
    if prices:
        use["money"] = sum(price * amounts[name] for name, price in prices.items())
    return use


def used_up(budget: Amounts, used: Amounts) -> str:
    """Describe the first part of a budget that is used up, or return ""."""
    over = (name for name, most in budget.items() if used.get(name, 0) >= most)
    texts = (f"budget.{n} = {budget[n]:,.10g} is used up ({used[n]:,.6g})" for n in over)
    return next(texts, "")


def spent_of(budget: Amounts, prices: Amounts, since: float, *before: Amounts) -> Spent:
    """Return the `Spent` function of a budget.

    since: time.monotonic() at the start. before: earlier costs to include.
    """

    def spent(summary: Summary) -> str:
        used = use_of(reduce(added, before, summary.costs), prices)
        return used_up(budget, {**used, "seconds": time.monotonic() - since})

    return spent


@contextmanager
def costs_in_errors(run: BulkRun, *before: Amounts) -> Iterator[None]:
    """Add the costs of a run, and those in `before`, to the metrics of an error that ends it."""
    try:
        yield
    except (BudgetError, ClusterError, GateError) as error:
        costs = error.metrics.get("costs")  # set by `complete`
        costs = costs or (Survey(run).summary + costs_of_starts(run.folder)).costs
        error.metrics = {**error.metrics, "costs": reduce(added, before, costs)}
        raise


def check_failed_share(
    run: BulkRun, progress: Progress | Summary, max_failed_share: float, num_rows: int | None = None
) -> None:
    """Raise GateError if more than `max_failed_share` of `num_rows` rows failed.

    num_rows: by default, the rows that are done. Failures for expected reasons do not count.
    """
    faults = run.format.faults(progress.failed)
    num_failed, num_done = faults.total(), progress.num_rows
    num_rows = num_done if num_rows is None else num_rows
    if num_failed <= max_failed_share * num_rows:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in faults.most_common())
    raise GateError(
        f"{num_failed} of {num_rows} rows failed ({reasons}), more than max_failed_share = "
        f"{max_failed_share}, so nothing is published; {progress.num_ok} succeeded, "
        f"{run.record.num_rows - num_done} are left. See the texts and messages of the rows with "
        f"status=failed in {run.folder}; fix the cause and retry these rows, or raise "
        "max_failed_share, and run again",
        code="too_many_failed",
        key="max_failed_share",
        saw=num_failed,
    )


class Meter:
    """The costs of one driver start, excluding those of rows: CPU and GPU hours, store traffic."""

    def __init__(self) -> None:
        self.summary = Summary()
        self._held, self._since = dict[str, float](), time.monotonic()
        self._lock = threading.Lock()

    def read(self, holding: dict[str, float] | None = None) -> Summary:
        """Return the costs so far; from now on, count the CPUs and GPUs in `holding`, if given."""
        with self._lock:
            hours = (time.monotonic() - self._since) / 3600
            costs = added({name: n * hours for name, n in self._held.items()}, traffic())
            self.summary += Summary(costs=costs)
            self._held = self._held if holding is None else holding
            self._since = time.monotonic()
            return self.summary

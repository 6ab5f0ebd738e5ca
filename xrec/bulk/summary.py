"""Counts and costs of rows, and what they use up of a budget."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from xrec.bulk.rows import FAILED, OK, counts_of
from xrec.storage import Record

Amounts = Mapping[Any, float]
_PROMPTS = ("prompt_tokens", "num_prompt_tokens")
_REPLIES = ("reply_tokens", "num_generated_tokens")


class Summary(Record):
    """Counts and costs of some rows.

    num_ok: number of successful rows. failed: number of failed rows by reason. was_failed: in a
    retry, the earlier failures of its rows by reason. costs: totals by name; `seconds` is process
    time, `carried` the number of rows carried over from an earlier run. num_deaths: number of
    processes that died while working on the rows.
    """

    num_ok: int = 0
    failed: dict[str, int] = Field(default_factory=dict)
    was_failed: dict[str, int] = Field(default_factory=dict)
    costs: dict[str, float] = Field(default_factory=dict)
    num_deaths: int = 0

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def num_rows(self) -> int:
        """The number of rows that succeeded or failed."""
        return self.num_ok + self.num_failed

    def __add__(self, other: "Summary") -> "Summary":
        """Add two summaries, counting a retried row once, with its last outcome."""
        retried = {reason: -count for reason, count in other.was_failed.items()}
        failed = added(added(self.failed, other.failed), retried)
        return Summary(
            num_ok=self.num_ok + other.num_ok,
            failed={reason: round(count) for reason, count in failed.items() if count},
            costs=added(self.costs, other.costs),
            num_deaths=self.num_deaths + other.num_deaths,
        )


def added(one: Amounts, other: Amounts) -> dict[str, float]:
    """Add two mappings of numbers by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def total(summaries: Iterable[Summary]) -> Summary:
    return sum(summaries, Summary())


def summary_of(rows: pa.Table, **fields: Any) -> Summary:
    """Return the summary of a result's rows, with `fields` passed through."""
    failed = counts_of(rows.filter(pc.equal(rows["status"], FAILED))["reason"])
    num_ok = counts_of(rows["status"]).get(OK, 0)
    return Summary(num_ok=num_ok, failed=failed, **fields)


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


def spent_of(
    budget: Amounts, prices: Amounts, since: float, *before: Amounts
) -> Callable[[Summary], str]:
    """Return the function `DriveOptions.spent` of a budget.

    since: time.monotonic() at the start. before: earlier costs to include.
    """

    def spent(summary: Summary) -> str:
        used = use_of(reduce(added, before, summary.costs), prices)
        return used_up(budget, {**used, "seconds": time.monotonic() - since})

    return spent

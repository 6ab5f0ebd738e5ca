"""The rows of a bulk run: columns, outcomes, the task that processes them, counts and costs."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from xrec.errors import ConfigError
from xrec.storage import Record

OK, FAILED = "ok", "failed"
"""The values of the column `status`."""
AGAIN = "again: "
"""Prefix of the costs that count, by reason, rows that were done again instead of carried over."""
TAKEN_DOWN = "taken_down"
"""The reason given for rows that a plan leaves out because they are taken down."""


@dataclass(frozen=True)
class RowFormat:
    """The columns of a run's rows.

    keys: the string columns that identify a row. Rows with the same first key stay together.
    given: columns that the input may provide, such as a rank. They are copied from the plan to
        every row of the table, even a failed or carried one; null if the input lacks them.
    ok: the other columns of a successful row; null in a failed row.
    failed: the columns of a failed row besides `reason` and `message`; may overlap with `ok`.
    reasons: the reasons for which the task may fail a row.
    expected_reasons: reasons that do not count toward `max_failed_share`.
    error_reason: the reason recorded for a row that raises an error or kills its process.
    key_comments: descriptions of the keys; written into the table, like the metadata of `ok` and
        `failed`.
    """

    keys: tuple[str, ...]
    ok: pa.Schema
    failed: pa.Schema
    given: pa.Schema = pa.schema([])  # noqa: RUF009  it is immutable
    reasons: tuple[str, ...] = ()
    expected_reasons: tuple[str, ...] = ()
    error_reason: str = "task_error"
    key_comments: tuple[str, ...] = ()

    @property
    def key_schema(self) -> pa.Schema:
        """The columns `keys`."""
        comments = (*self.key_comments, *[""] * len(self.keys))
        pairs = zip(self.keys, comments, strict=False)
        return pa.schema([_field(key, pa.string(), text, nullable=False) for key, text in pairs])

    @property
    def planned_schema(self) -> pa.Schema:
        """The columns of a planned row."""
        return pa.schema([*self.key_schema, *self.given])

    @property
    def ok_schema(self) -> pa.Schema:
        """The columns of `Outcome.ok`."""
        return pa.schema([*self.key_schema, *self.ok])

    @property
    def failed_schema(self) -> pa.Schema:
        """The columns of `Outcome.failed`."""
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("reason", "message")]
        return pa.schema([*self.key_schema, *texts, *self.failed])

    @property
    def table_schema(self) -> pa.Schema:
        """The columns of results and of the table."""
        bucket = f"which of C equal ranges contains the hash of {self.keys[0]}"
        return pa.schema(
            [
                _field("status", pa.string(), f"{OK} or {FAILED}", nullable=False),
                _field("bucket", pa.int32(), bucket, nullable=False),
                *self.planned_schema,
                *(field.with_nullable(True) for field in self.ok),
                _field("reason", pa.string(), f"why the row failed; null if it is {OK}"),
                _field("message", pa.string(), f"details for a reader; null if it is {OK}"),
                *(field.with_nullable(True) for field in self.failed if field not in self.ok),
            ]
        )

    @property
    def all_reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reasons, self.error_reason)))

    def check_reasons(self, reasons: Iterable[str]) -> tuple[str, ...]:
        """Return the reasons sorted, without duplicates; `all` means all that exist.

        Raises ConfigError if one is unknown.
        """
        wanted, known = set(reasons), set(self.all_reasons)
        if unknown := sorted(wanted - known - {"all"}):
            raise ConfigError(
                f"retry_failed has unknown reasons {', '.join(unknown)}; expected all, or some of "
                f"{', '.join(self.all_reasons)}",
                code="unknown_reason",
                key="retry_failed",
                saw=tuple(unknown),
            )
        return tuple(sorted(known if "all" in wanted else wanted))

    def faults(self, failed: Mapping[str, int]) -> Counter[str]:
        """Return the counts without the `expected_reasons`."""
        return Counter({why: n for why, n in failed.items() if why not in self.expected_reasons})

    def sorted(self, rows: pa.Table) -> pa.Table:
        """Sort rows by bucket (if present) and keys."""
        names = [name for name in ("bucket", *self.keys) if name in rows.column_names]
        return rows.sort_by([(name, "ascending") for name in names])

    def are_among(self, rows: pa.Table, others: pa.Table) -> pa.ChunkedArray:
        """Return, for each row, whether its keys are in `others`."""
        return pc.is_in(self.joined_keys(rows), value_set=self.joined_keys(others))

    def joined_keys(self, rows: pa.Table) -> pa.ChunkedArray:
        """Join each row's keys, with their lengths, into a string that no other keys produce."""
        parts = []
        for name in self.keys:
            parts += [pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name]]
        return pc.binary_join_element_wise(*parts, " ")

    def rows_of(self, outcome: "Outcome", planned: pa.Table) -> pa.Table:
        """Return the outcome of planned rows as rows of the table.

        Raise ValueError unless it has each row exactly once, with known reasons.
        """
        tables = ((outcome.ok, self.ok_schema, OK), (outcome.failed, self.failed_schema, FAILED))
        marked = [
            rows.select(schema.names)
            .cast(schema)
            .append_column("status", pa.repeat(status, rows.num_rows))
            for rows, schema, status in tables
        ]
        rows = pa.concat_tables(marked, promote_options="default")
        done, wanted = (
            self.sorted(each.select(self.keys).cast(self.key_schema)) for each in (rows, planned)
        )
        if not done.equals(wanted):
            raise ValueError(
                f"the task got {planned.num_rows} rows and returned {outcome.ok.num_rows} that "
                f"succeeded and {outcome.failed.num_rows} that failed; expected each row once"
            )
        if unknown := {*outcome.failed["reason"].to_pylist()} - {*self.all_reasons}:
            raise ValueError(
                f"the task failed rows for unknown reasons {sorted(unknown)}; expected some of "
                f"{', '.join(self.all_reasons)}"
            )
        return self.with_planned(rows, planned)

    def with_planned(self, rows: pa.Table, planned: pa.Table) -> pa.Table:
        """Return rows of the table with the bucket and the columns `given` of `planned`."""
        places = pc.index_in(self.joined_keys(rows), value_set=self.joined_keys(planned))
        columns = {
            field.name: planned[field.name].take(places)
            if field.name in ("bucket", *self.given.names)
            else rows[field.name]
            for field in self.table_schema
        }
        return pa.table(columns).cast(self.table_schema)


@dataclass(frozen=True)
class Outcome:
    """The outcome of some rows; each row is in exactly one of the two tables.

    ok: keys and the columns `RowFormat.ok`.
    failed: keys, `reason`, `message` and the columns `RowFormat.failed`.
    costs: costs of the rows by name, such as tokens; a run adds them up.
    """

    ok: pa.Table
    failed: pa.Table
    costs: Mapping[str, float] = field(default_factory=dict)


class ChunkTask(Protocol):
    """The work to do on rows. Each process makes one task and keeps it, with its models in memory.

    Methods are called from several threads; at most `chunks_at_once` calls of `do` run at a time.
    """

    row_errors: tuple[type[Exception], ...]
    """Errors of `do` that a row of this call or of a concurrent one may have caused. The rows are
    then done again alone and halved until that row is found. Any other error ends the run."""

    def do(self, rows: pa.Table) -> Outcome:
        """Process one or more rows with the columns `RowFormat.planned_schema`."""
        ...

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """Return the rows as failed rows (`Outcome.failed`) without doing them."""
        ...


@runtime_checkable
class CarryingTask(Protocol):
    """An optional protocol for a task that can carry over rows of an earlier run."""

    def why_again(self, earlier: pa.Table) -> pa.Array:
        """Return why each earlier row (`RowFormat.table_schema`) must be done again.

        The columns `RowFormat.given` have the values of the plan. Null means that the row is
        carried over, even if it failed. Costs count the rows of each reason under `AGAIN` plus the
        reason.
        """
        ...


def bucket_of(key: str, num_buckets: int) -> int:
    """Return a first key's bucket: which of `num_buckets` equal ranges contains its MD5 hash."""
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return (int.from_bytes(digest[4:8], "little") * num_buckets) >> 32


def counts_of(values: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value occurs."""
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(values).to_pylist()}


def bare(rows: pa.Table) -> pa.Table:
    """Remove the comments of the columns, which the table's log already has."""
    return pa.table(rows.columns, pa.schema([field.remove_metadata() for field in rows.schema]))


def _field(name: str, type_: pa.DataType, comment: str, nullable: bool = True) -> pa.Field:
    metadata = {"comment": comment} if comment else None
    return pa.field(name, type_, nullable=nullable, metadata=metadata)


Amounts = Mapping[Any, float]


def carried_of(costs: Amounts) -> dict[str, Any]:
    """Return metrics: how many rows were carried over, and done again instead, by reason."""
    again = {
        name.removeprefix(AGAIN): round(count)
        for name, count in sorted(costs.items())
        if name.startswith(AGAIN) and count
    }
    return {"num_carried": round(costs.get("carried", 0)), "written_again": again}


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

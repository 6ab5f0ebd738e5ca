"""How many rows are explained and failed so far; the run stops as soon as more failed than may."""

from collections import Counter
from dataclasses import dataclass, field

from xrec.backfill.commit import Commit
from xrec.backfill.plan import BackfillPlan
from xrec.backfill.snapshot import Snapshot
from xrec.errors import DataError


@dataclass
class Tally:
    """Counts that grow as chunks are committed."""

    num_explained: int = 0
    failed_by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def num_failed(self) -> int:
        """Failed rows."""
        return self.failed_by_reason.total()

    def add(self, commit: Commit) -> None:
        """Count a chunk of the run."""
        self.num_explained += commit.num_rows
        self.failed_by_reason.update(commit.failed_by_reason)

    def check(self, plan: BackfillPlan, max_failed_share: float) -> None:
        """Raise DataError, with a summary, if more than `max_failed_share` of the run's rows failed."""
        if self.num_failed > max_failed_share * plan.num_rows:
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in self.failed_by_reason.most_common()
            )
            num_left = plan.num_rows - self.num_explained - self.num_failed
            raise DataError(
                f"{self.num_failed} of {plan.num_rows} rows failed ({reasons}), more than max_failed_share = {max_failed_share}; "
                f"{self.num_explained} are explained, {num_left} left. The rows, their texts and messages are in {plan.output / 'failed'}; "
                "mend the cause and use --retry-failed, or raise max_failed_share and run again"
            )


def tally_of(snapshot: Snapshot) -> Tally:
    """The counts of what is committed."""
    return Tally(snapshot.num_explained, Counter(snapshot.failed_by_reason))

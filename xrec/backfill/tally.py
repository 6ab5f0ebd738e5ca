"""Counts explained and failed rows; the run stops as soon as too many rows failed."""

from collections import Counter
from dataclasses import dataclass, field

from xrec.backfill.commit import Commit
from xrec.backfill.plan import BackfillPlan
from xrec.backfill.snapshot import Snapshot
from xrec.errors import DataError


@dataclass
class Tally:
    """Counts of the rows of committed chunks."""

    num_explained: int = 0
    failed_by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def num_failed(self) -> int:
        """How many rows failed."""
        return self.failed_by_reason.total()

    def add(self, commit: Commit) -> None:
        """Count a committed chunk of the run."""
        self.num_explained += commit.num_rows
        self.failed_by_reason.update(commit.failed_by_reason)

    def check(self, plan: BackfillPlan, max_failed_share: float) -> None:
        """Raise DataError with a summary if more than `max_failed_share` of all rows failed."""
        if self.num_failed > max_failed_share * plan.num_rows:
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in self.failed_by_reason.most_common()
            )
            num_left = plan.num_rows - self.num_explained - self.num_failed
            raise DataError(
                f"{self.num_failed} of {plan.num_rows} rows failed ({reasons}), more than "
                f"max_failed_share = {max_failed_share}; {self.num_explained} are explained, "
                f"{num_left} left. The failed rows, with texts and messages, are in "
                f"{plan.output / 'failed'}; correct the cause and use --retry-failed, "
                "or raise max_failed_share and run again"
            )


def tally_of(snapshot: Snapshot) -> Tally:
    """Return the counts of what is committed."""
    return Tally(snapshot.num_explained, Counter(snapshot.failed_by_reason))

"""What a row of a run costs, as measured, and what others would cost at that rate."""

from collections.abc import Mapping
from dataclasses import dataclass

from xrec.bulk.status import Status

SECONDS = "seconds"
"""The cost that every run has: the time of actors, without their start."""
CARRIED = "carried"
"""The count, among the costs, of rows that were carried over from an earlier run."""


@dataclass(frozen=True)
class Rate:
    """What the rows of a run cost that were done in it, and not carried over.

    uri: of the run. costs: in all, by name.
    """

    uri: str
    num_done: int
    num_carried: int
    costs: Mapping[str, float]

    @property
    def carried_share(self) -> float:
        """Which share of the rows was carried over."""
        return self.num_carried / (self.num_done + self.num_carried)

    def costs_of(self, num_rows: int, carried_share: float = 0.0) -> dict[str, float]:
        """What `num_rows` rows would cost if `carried_share` of them are carried over."""
        share = num_rows * (1 - carried_share) / self.num_done
        return {name: cost * share for name, cost in self.costs.items()}


def measured_rate(status: Status) -> Rate | None:
    """The rate of all that a run has done; None if that is nothing.

    Rows that a retry did again count once, with the costs of all attempts.
    """
    if status.state is None:
        return None
    costs = dict(status.state.costs)
    num_carried = round(costs.pop(CARRIED, 0.0))
    num_done = status.num_done - num_carried
    if num_done <= 0 or SECONDS not in costs:
        return None
    return Rate(status.uri, num_done, num_carried, costs)

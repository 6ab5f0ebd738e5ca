"""Generations: the run itself is the first; each retry of failed rows or compaction is another.

Each generation has a folder with its own commit records: that of the run is the output itself,
that of generation 2 is `generations/00002`. The record `generation.json` is created once, before
any work of the generation, so that an interrupted generation goes on and is not begun again. Which
files count follows from all generations in order (xrec.backfill.snapshot).
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from xrec.storage import Location

_RECORD = "generation.json"


class Generation(BaseModel):
    """What a generation does.

    `reasons` are the reasons of the failed rows that a retry takes; if it is empty, the retry
    takes all failed rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 1
    kind: Literal["run", "retry", "compaction"] = "run"
    reasons: tuple[str, ...] = ()

    def root(self, output: Location) -> Location:
        """Return the folder of its records."""
        return output if self.number == 1 else output / "generations" / f"{self.number:05d}"

    def retries(self, reason: str) -> bool:
        """Whether this generation does failed rows with this reason again."""
        return self.kind == "retry" and (not self.reasons or reason in self.reasons)


RUN = Generation()


def read_generations(output: Location) -> list[Generation]:
    """Return all generations that were begun, in order; the run is the first."""
    names = [name for name in (output / "generations").files() if name.endswith(f"/{_RECORD}")]
    return [
        RUN,
        *(
            Generation.model_validate_json((output / "generations" / name).read_bytes())
            for name in names
        ),
    ]


def begin_generation(
    output: Location, kind: Literal["retry", "compaction"], reasons: tuple[str, ...] = ()
) -> Generation:
    """Write the record of the next generation, and return it; the caller must hold the lease."""
    generation = Generation(
        number=read_generations(output)[-1].number + 1, kind=kind, reasons=reasons
    )
    record = generation.root(output) / _RECORD
    data = json.dumps(generation.model_dump(mode="json")).encode()
    # A request that is sent again, after its answer was lost, finds the record that it created.
    created = record.create_bytes(data) or record.read_bytes() == data
    assert created, "another driver began this generation, although this one holds the lease"
    return generation

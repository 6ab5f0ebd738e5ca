"""Generations: the run itself is the first; a retry of failed rows or a compaction is another, over what is there.

Each has a folder with its own commit records: the run's is the output, that of generation 2 `generations/00002`. Its record
`generation.json` is created once, before any of its work, so an interrupted generation is taken up, not begun again.
What counts is told by all generations in order (xrec.backfill.snapshot).
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from xrec.storage import Location

_RECORD = "generation.json"


class Generation(BaseModel):
    """What a generation does; `reasons` are those of the failed rows that a retry takes, none: all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 1
    kind: Literal["run", "retry", "compaction"] = "run"
    reasons: tuple[str, ...] = ()

    def root(self, output: Location) -> Location:
        """Where its records lie."""
        return output if self.number == 1 else output / "generations" / f"{self.number:05d}"

    def retries(self, reason: str) -> bool:
        """True if a failed row of this reason is to be done again."""
        return self.kind == "retry" and (not self.reasons or reason in self.reasons)


RUN = Generation()


def read_generations(output: Location) -> list[Generation]:
    """All that were begun, in order; the run is the first."""
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
    """The next generation, its record written."""
    generation = Generation(
        number=read_generations(output)[-1].number + 1, kind=kind, reasons=reasons
    )
    record = generation.root(output) / _RECORD
    data = json.dumps(generation.model_dump(mode="json")).encode()
    created = (
        record.create_bytes(data) or record.read_bytes() == data
    )  # a request that was sent again finds its own
    assert created, "the lease lets one driver begin a generation"
    return generation

"""Who writes the texts: the protocol of an annotator, and what a run must know to make one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from xrec.annotate.rows import (
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    UserInput,
    UserText,
    Written,
)
from xrec.bulk import Rate
from xrec.storage import Location


class Annotator(Protocol):
    """Writes texts; each actor makes one and keeps it, with its models in memory.

    Each method gets the rows of a chunk, and returns as many results in their order. It is called
    from `AnnotatorSpec.chunks_at_once` threads at the same time. A method need not remove personal
    data: it is out of the rows already, and is looked for in the texts afterwards.
    """

    def items(self, rows: Sequence[ItemInput]) -> Written[ItemText]:
        """The items' titles and profiles."""
        ...

    def users(self, rows: Sequence[UserInput]) -> Written[UserText]:
        """The users' profiles."""
        ...

    def pairs(self, rows: Sequence[PairInput]) -> Written[PairText]:
        """The pairs' explanations and aspects."""
        ...


@dataclass(frozen=True)
class Outlook:
    """What a run would write.

    counts: of the texts of the stages items, users and pairs.
    samples: the inputs of some of them, by stage.
    rates: what was measured on the texts of stages that have begun.
    """

    counts: Mapping[str, int]
    samples: Mapping[str, Sequence[Input]]
    rates: Mapping[str, Rate]


def _nothing(*_: object) -> None:
    return None


def _counts(outlook: Outlook) -> list[str]:
    return [f"{stage}: {count:,} texts" for stage, count in outlook.counts.items()]


@dataclass(frozen=True)
class AnnotatorSpec:
    """What the driver knows of an annotator, before any is made.

    settings: what the texts depend on, as plain JSON: settings, hashes of prompts. inputs: the
        fingerprints of models. Together they decide whether an output is of the same run.
    reasons: the reasons of `Failure` that it may give.
    make: makes one, in an actor; `output` is where `learn` wrote. It must be picklable.
    row_errors: errors of its methods for which some row may be to blame (`ChunkTask.row_errors`).
    learn: called in the driver, before the first stage, with training reviews (a sample of at most
        `num_learned`, schema REVIEWS); writes what actors are to read below `output`. It must
        write the same if it is called twice.
    learned: a fingerprint of what `learn` wrote, which texts depend on too; None if it writes
        nothing. Texts of earlier annotations are carried only if it is the same there.
    gpus_per_actor: for an actor whose device is a GPU.
    max_actors: most actors of a stage; None if there is no limit.
    forget_failures: called in the driver before failed texts are written again; `output` as above.
    clean_up: called in the driver once all texts are written and published.
    describe: lines for a reader that say what a run would do, for --dry-run.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    reasons: tuple[str, ...]
    make: Callable[[Location], Annotator]
    row_errors: tuple[type[Exception], ...] = ()
    learn: Callable[[pa.Table, Location], None] = _nothing
    num_learned: int = 0
    learned: Callable[[Location], str] | None = None
    chunks_at_once: int = 1
    gpus_per_actor: int = 0
    max_actors: int | None = None
    forget_failures: Callable[[Location], None] = _nothing
    clean_up: Callable[[Location], None] = _nothing
    describe: Callable[[Outlook], list[str]] = _counts

    def num_actors(self, wanted: int) -> int:
        """How many actors a stage of texts has if the config asks for `wanted`."""
        return wanted if self.max_actors is None else min(wanted, self.max_actors)

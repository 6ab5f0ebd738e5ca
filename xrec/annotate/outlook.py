"""What a run would write, as an annotator gets it to tell what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xrec.annotate.rows import ItemInput, PairInput, UserInput
from xrec.bulk import Rate


@dataclass(frozen=True)
class Outlook:
    """What a run would write.

    counts: of the texts of the stages items, users and pairs.
    items, users, pairs: the inputs of some of them.
    rates: what was measured on the texts of stages that have begun.
    """

    counts: Mapping[str, int]
    items: Sequence[ItemInput]
    users: Sequence[UserInput]
    pairs: Sequence[PairInput]
    rates: Mapping[str, Rate]

"""An annotator that keeps every word that it was shown, so that a leak would be seen."""

import functools
from collections.abc import Sequence
from pathlib import Path

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.rows import (
    Aspect,
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    UserInput,
    UserText,
    Written,
)
from xrec.storage import Location

REFUSED = "refused"


class QuotingAnnotator:
    """Writes all that it was shown; `asked` is a file that gets a line for each row asked.

    A review with the word `refuse` is a failure, unless the file `mended` beside it is there. One
    with the word `blame` has aspects without an explanation, all of them negative.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def items(self, rows: Sequence[ItemInput]) -> Written[ItemText]:
        """Titles and profiles of all that was shown."""
        self._note(f"item {row.item_id}" for row in rows)
        texts = [
            ItemText(row.title or row.item_id, " ".join(each.review for each in row.reviews))
            for row in rows
        ]
        return Written(texts, {"asked": len(rows)})

    def users(self, rows: Sequence[UserInput]) -> Written[UserText]:
        """Profiles of all that was shown, the items' profiles included."""
        self._note(f"user {row.user_id}" for row in rows)
        texts = [
            UserText(
                " ".join(
                    f"{each.review.review} {each.item.profile if each.item else ''}"
                    for each in row.reviews
                )
            )
            for row in rows
        ]
        return Written(texts, {"asked": len(rows)})

    def pairs(self, rows: Sequence[PairInput]) -> Written[PairText]:
        """The review as explanation, and each of its words as an aspect."""
        self._note(f"pair {row.user_id} {row.item_id}" for row in rows)
        return Written([self._pair(row) for row in rows], {"asked": len(rows)})

    def _pair(self, row: PairInput) -> PairText | Failure:
        if "refuse" in row.review.review and not (self._folder / "mended").exists():
            return Failure(REFUSED, "it was told to", f"reply to {row.user_id}")
        shown = f"{row.review.review} {row.item.profile if row.item else ''}"
        words = dict.fromkeys(row.review.review.lower().replace(".", "").split())
        if "blame" in words:
            return PairText("", tuple(Aspect(word, "", "negative") for word in words))
        return PairText(shown, tuple(Aspect(word, "", "positive") for word in words))

    def _note(self, lines: "Sequence[str] | object") -> None:
        with (self._folder / "asked").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)  # type: ignore[attr-defined]


def _make(output: Location, *, folder: Path) -> QuotingAnnotator:
    return QuotingAnnotator(folder)


def quoting_spec(folder: Path, **changes: object) -> AnnotatorSpec:
    """The spec of a QuotingAnnotator that keeps its files in `folder`."""
    values = {
        "settings": {"kind": "quoting"},
        "inputs": {},
        "reasons": (REFUSED,),
        "make": functools.partial(_make, folder=folder),
        **changes,
    }
    return AnnotatorSpec(**values)  # type: ignore[arg-type]

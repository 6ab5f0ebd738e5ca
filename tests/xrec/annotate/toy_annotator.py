"""An annotator that keeps every word that it was shown, so that a leak would be seen."""

import functools
from collections.abc import Sequence
from pathlib import Path

from xrec.annotate.annotator import (
    AnnotatorSpec,
    Aspect,
    Failure,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Text,
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

    def write(self, rows: Sequence[Input]) -> Written:
        return Written([self._text(row) for row in rows], {"asked": len(rows)})

    def _text(self, row: Input) -> Text | Failure:
        match row:
            case ItemInput():
                self._note(f"item {row.item_id}")
                profile = " ".join(each.review for each in row.reviews)
                return ItemText(row.title or row.item_id, profile)
            case UserInput():
                self._note(f"user {row.user_id}")
                shown = [
                    f"{each.review.review} {each.item.profile if each.item else ''}"
                    for each in row.reviews
                ]
                return UserText(" ".join(shown))
            case PairInput():
                self._note(f"pair {row.user_id} {row.item_id}")
                return self._pair(row)

    def _pair(self, row: PairInput) -> PairText | Failure:
        """The review as explanation, and each of its words as an aspect."""
        if "refuse" in row.review.review and not (self._folder / "mended").exists():
            return Failure(REFUSED, "it was told to", f"reply to {row.user_id}")
        shown = f"{row.review.review} {row.item.profile if row.item else ''}"
        words = dict.fromkeys(row.review.review.lower().replace(".", "").split())
        if "blame" in words:
            return PairText("", tuple(Aspect(word, "", "negative") for word in words))
        return PairText(shown, tuple(Aspect(word, "", "positive") for word in words))

    def _note(self, line: str) -> None:
        with (self._folder / "asked").open("a") as file:
            file.write(f"{line}\n")


def _make(output: Location, *, folder: Path) -> QuotingAnnotator:
    return QuotingAnnotator(folder)


def quoting_spec(folder: Path, **changes: object) -> AnnotatorSpec:
    """The spec of a QuotingAnnotator that keeps its files in `folder`."""
    make = functools.partial(_make, folder=folder)
    values = {"settings": {"kind": "quoting"}, "inputs": {}, "reasons": (REFUSED,), "make": make}
    values["folds"] = 0
    return AnnotatorSpec(**{**values, **changes})  # type: ignore[arg-type]

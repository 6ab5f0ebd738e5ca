"""Reviews, an annotator that keeps every word it was shown so that a leak is seen, and its runs."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.world.shop import review, write_json_lines
from tests.xrec.data.test_assemble import whole
from xrec.annotate.annotator import (
    AnnotatorSpec,
    Aspect,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    Text,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.driver import run_annotate
from xrec.annotate.read import read_annotations
from xrec.annotate.store import keep_source
from xrec.config import AnnotateConfig, SplitShares, merged, parse_config
from xrec.data import Staging, assemble
from xrec.errors import Failure
from xrec.storage import Location, Manifest

HASHED = {"by": "hash", "test": 0, "validation": 0}
"""A split that holds nothing out, and needs no times."""


def annotate_config(workspace: Path | str, uri: Path | str, **values: Any) -> AnnotateConfig:
    """A config over the reviews at `uri`, into which `values` are merged."""
    defaults = {"source": {"uri": str(uri)}, "vocabulary": {"min_reviews": 2}}
    return parse_config(AnnotateConfig, merged({"workspace": str(workspace), **defaults}, values))


def annotate(config: AnnotateConfig, spec: AnnotatorSpec) -> Manifest | None:
    """Keep the reviews and write all texts; None if a limit ended the run."""
    return run_annotate(config, spec, keep_source(config, spec))


def dataset_tables(config: AnnotateConfig) -> Mapping[str, pa.Table]:
    """The tables of the dataset that is made of finished annotations."""
    with Staging(SplitShares()) as staging:
        staging.add(read_annotations(config.artifact("annotations"), config.storage))
        return whole(assemble(staging).tables)


def texts_of_training(tables: Mapping[str, pa.Table]) -> str:
    """All that a model may learn from."""
    texts = [("users", "profile"), ("items", "profile"), ("items", "title"), ("aspects", "aspect")]
    said = [text for table, column in texts for text in tables[table][column].to_pylist()]
    explanations = tables["explanations"].to_pylist()
    said += [row["explanation"] for row in explanations if row["split"] == "train"]
    return " ".join(said).lower()


@dataclass(frozen=True)
class SecretTown:
    """Reviews each with a word that no other has, the last two of each user held out by time.

    text: of a review, with {secret} in it.
    """

    text: str
    num_users: int = 8
    reviews_per_user: int = 4
    num_items: int = 5

    def write(self, path: Path) -> Path:
        rows = [
            review(
                f"u{user}",
                f"i{(user + number) % self.num_items}",
                self.text.format(secret=self._secret(user, number)),
                summary=f"Great {self._secret(user, number)}",
                time=number,
            )
            for user in range(self.num_users)
            for number in range(self.reviews_per_user)
        ]
        return write_json_lines(path, rows)

    def secret_of(self, user_id: str, item_id: str) -> str:
        user = int(user_id[1:])
        return self._secret(user, (int(item_id[1:]) - user) % self.num_items)

    def secrets(self, *, held_out: bool) -> list[str]:
        """The words of the reviews that are held out, or of the others."""
        first_held_out = self.reviews_per_user - 2
        return [
            self._secret(user, number)
            for user in range(self.num_users)
            for number in range(self.reviews_per_user)
            if (number >= first_held_out) == held_out
        ]

    @staticmethod
    def _secret(user: int, number: int) -> str:
        """A word that no lexicon knows."""
        return f"zqu{chr(97 + user)}v{chr(97 + number)}x"


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
                return ItemText(
                    row.title or row.item_id, " ".join(each.review for each in row.reviews)
                )
            case UserInput():
                self._note(f"user {row.user_id}")
                return UserText(" ".join(_shown(each.review, each.item) for each in row.reviews))
            case PairInput():
                self._note(f"pair {row.user_id} {row.item_id}")
                return self._pair(row)

    def _pair(self, row: PairInput) -> PairText | Failure:
        """The review as explanation, and each of its words as an aspect."""
        if "refuse" in row.review.review and not (self._folder / "mended").exists():
            return Failure(REFUSED, "it was told to", reply=f"reply to {row.user_id}")
        words = dict.fromkeys(row.review.review.lower().replace(".", "").split())
        if "blame" in words:
            return PairText("", tuple(Aspect(word, "", "negative") for word in words))
        aspects = tuple(Aspect(word, "", "positive") for word in words)
        return PairText(_shown(row.review, row.item), aspects)

    def _note(self, line: str) -> None:
        with (self._folder / "asked").open("a") as file:
            file.write(f"{line}\n")


def _shown(review: Review, item: ItemText | None) -> str:
    return f"{review.review} {item.profile if item else ''}"


def _make(output: Location, attempt: int, *, folder: Path) -> QuotingAnnotator:
    return QuotingAnnotator(folder)


def quoting_spec(folder: Path, **changes: object) -> AnnotatorSpec:
    """The spec of a QuotingAnnotator that keeps its files in `folder`."""
    make = functools.partial(_make, folder=folder)
    values = {"settings": {"kind": "quoting"}, "inputs": {}, "reasons": (REFUSED,), "make": make}
    values["folds"] = 0
    return AnnotatorSpec(**{**values, **changes})  # type: ignore[arg-type]

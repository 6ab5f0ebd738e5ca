"""Runs over files of reviews, and a town whose reviews each have a word of their own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.world.shop import review, write_json_lines
from tests.xrec.data.test_assemble import whole
from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.driver import run_annotate
from xrec.annotate.read import read_annotations
from xrec.annotate.store import keep_source
from xrec.config import AnnotateConfig, SplitShares, merged, parse_config
from xrec.data import Staging, assemble
from xrec.storage import Manifest

HASHED = {"by": "hash", "test": 0, "validation": 0}
"""A split that holds nothing out and needs no times."""


def annotate_config(workspace: Path | str, uri: Path | str, **values: Any) -> AnnotateConfig:
    """Return a config for the reviews at `uri`, with `values` merged into it."""
    defaults = {"source": {"uri": str(uri)}, "vocabulary": {"min_reviews": 2}}
    return parse_config(AnnotateConfig, merged({"workspace": str(workspace), **defaults}, values))


def annotate(config: AnnotateConfig, spec: AnnotatorSpec) -> Manifest | None:
    """Keep the reviews and write all texts; return None if a limit ended the run."""
    return run_annotate(config, spec, keep_source(config, spec))


def dataset_tables(config: AnnotateConfig) -> Mapping[str, pa.Table]:
    """Return the tables of the dataset made from finished annotations."""
    with Staging(SplitShares()) as staging:
        staging.add(read_annotations(config.artifact("annotations"), config.storage))
        return whole(assemble(staging).tables)


def texts_of_training(tables: Mapping[str, pa.Table]) -> str:
    """Return all texts that a model may learn from."""
    columns = [
        ("users", "profile"),
        ("items", "profile"),
        ("items", "title"),
        ("aspects", "aspect"),
    ]
    texts = [text for table, column in columns for text in tables[table][column].to_pylist()]
    explanations = tables["explanations"].to_pylist()
    texts += [row["explanation"] for row in explanations if row["split"] == "train"]
    return " ".join(texts).lower()


def secret_of(user_id: str, item_id: str) -> str:
    """Return the word that only the review of this pair has; no lexicon knows it."""
    user, item = (chr(97 + int(each[1:])) for each in (user_id, item_id))
    return f"zqu{user}v{item}x"


@dataclass(frozen=True)
class SecretTown:
    """Reviews that each have a secret word; each user's last two are held out by time.

    text: the text of a review, with {secret} in it.
    """

    text: str
    num_users: int = 8
    reviews_per_user: int = 4
    num_items: int = 5

    def write(self, path: Path) -> Path:
        rows = []
        for user_id, item_id, time in self._reviews():
            secret = secret_of(user_id, item_id)
            text = self.text.format(secret=secret)
            rows.append(review(user_id, item_id, text, summary=f"Great {secret}", time=time))
        return write_json_lines(path, rows)

    def secrets(self, *, held_out: bool) -> list[str]:
        """Return the secrets of the reviews that are held out, or of the others."""
        first_held_out = self.reviews_per_user - 2
        return [
            secret_of(user_id, item_id)
            for user_id, item_id, time in self._reviews()
            if (time >= first_held_out) == held_out
        ]

    def _reviews(self) -> Iterator[tuple[str, str, int]]:
        for user in range(self.num_users):
            for time in range(self.reviews_per_user):
                yield f"u{user}", f"i{(user + time) % self.num_items}", time

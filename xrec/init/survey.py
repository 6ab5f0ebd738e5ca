"""Reads the files as the jobs will, and counts what they will make of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from xrec.annotate import find_review_files, keep_reviews, read_reviews
from xrec.config import AnnotateConfig, SplitShares, TablesSource, parse_config
from xrec.data import (
    SPLITS,
    Rejected,
    Staging,
    assemble,
    check_not_empty,
    check_rejected_share,
    count_findings,
    count_reasons,
    find_release_files,
    find_table_files,
    read_release,
    read_tables,
)
from xrec.storage import Location, open_location

LEAST = {"train": 16, "validation": 2, "test": 2}
"""The number of explanations that an adapter needs, by split."""
_MOST_REJECTED = 0.5
_ANNOTATED_TOKENS = 32  # length of an explanation that names three aspects
_TOKENS_PER_WORD = 1.5  # for subword tokenizers on plain English, with some headroom


@dataclass(frozen=True)
class Survey:
    """The size of the dataset that the jobs will make.

    num_explanations: by split. rejected: counts of rows left out, by "file: reason".
    max_rejected_share: the largest share of one file. explanation_tokens: the 95th percentile of
    the explanations' estimated length; 0 if there are none. dropped: counts of reviews by reason.
    num_rows: of each file.
    """

    num_users: int
    num_items: int
    num_interactions: int
    num_train_interactions: int
    num_explanations: Mapping[str, int]
    rejected: Mapping[str, int]
    max_rejected_share: float
    explanation_tokens: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def can_train_adapter(self) -> bool:
        """Whether there are enough explanations for training, validation and test."""
        return all(self.num_explanations[split] >= least for split, least in LEAST.items())


def survey_reviews(section: Mapping[str, Any]) -> Survey:
    """Read and choose the reviews like `xrec annotate` with these settings.

    Raises DataError if that fails or more than half of the rows of a file would be left out.
    """
    more = {"workspace": "", "annotator": {"kind": "phrases"}}
    config = parse_config(AnnotateConfig, {**section, **more, "max_rejected_share": _MOST_REJECTED})
    raw = read_reviews(config, find_review_files(config))
    kept = keep_reviews(raw.reviews, config)
    splits = Counter(kept.reviews["split"].to_pylist())
    return Survey(
        num_users=pc.count_distinct(kept.reviews["user_id"]).as_py(),
        num_items=pc.count_distinct(kept.reviews["item_id"]).as_py(),
        num_interactions=kept.reviews.num_rows,
        num_train_interactions=splits["train"],
        num_explanations={split: splits[split] for split in SPLITS},
        **_rejected(count_findings(raw.findings), raw.num_rows, config.source.uri),
        explanation_tokens=_ANNOTATED_TOKENS,
        dropped=kept.dropped,
    )


def survey_tables(section: Mapping[str, Any]) -> Survey:
    """Read the tables like `xrec prepare` with this source; raise DataError if that fails."""
    source = TablesSource.model_validate(section)
    files = find_table_files(open_location(source.uri), source)
    return _survey(lambda staging: read_tables(staging, files, source), source.uri)


def survey_release(folder: Location) -> Survey:
    """Read a dataset of the public XRec release like `xrec prepare`."""
    files = find_release_files(folder)
    return _survey(lambda staging: read_release(staging, files), folder.uri)


def _survey(read: Callable[[Staging], None], uri: str) -> Survey:
    with Staging(SplitShares()) as staging:
        read(staging)
        metrics = assemble(staging).metrics
        left_out = _rejected(staging.rejected(), staging.num_rows, uri)
        check_not_empty(staging)
        texts = staging.table("SELECT explanation FROM explanations")["explanation"].to_pylist()
        num_users, num_items = staging.count("users"), staging.count("items")
    num_words = [len(text.split()) for text in texts]
    num_interactions = metrics["num_interactions"]
    return Survey(
        num_users=num_users,
        num_items=num_items,
        num_interactions=sum(num_interactions.values()) + metrics["num_removed_edges"],
        num_train_interactions=num_interactions["train"],
        num_explanations=metrics["num_explanations"],
        **left_out,
        explanation_tokens=int(np.quantile(num_words or [0], 0.95) * _TOKENS_PER_WORD),
        num_rows=staging.num_rows,
    )


def _rejected(rejected: list[Rejected], num_rows: Mapping[str, int], uri: str) -> dict[str, Any]:
    check_rejected_share(rejected, num_rows, _MOST_REJECTED, uri)
    by_file = Counter[str]()
    for each in rejected:
        by_file[each.file] += each.count
    share = max(by_file[file] / max(1, total) for file, total in num_rows.items())
    return {"rejected": count_reasons(rejected), "max_rejected_share": share}

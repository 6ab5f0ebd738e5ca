"""What `xrec prepare` will make of the tables: counts, and the rows that it will leave out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from xrec.annotate import find_review_files, keep_reviews, read_reviews
from xrec.config import AnnotateConfig, SplitShares, TablesSource, parse_config
from xrec.data.assemble import assemble, check_not_empty
from xrec.data.rows import SPLITS
from xrec.data.source import Rejected, check_rejected_share, count_findings, count_reasons
from xrec.data.staging import Staging
from xrec.data.tables import find_table_files, read_tables
from xrec.init.files import Folder
from xrec.storage import open_location

_MOST_REJECTED = 0.5
_ANNOTATED_TOKENS = 32  # of an explanation that names three aspects
_TOKENS_PER_WORD = 1.5  # of subword tokenizers on plain English, and some room


@dataclass(frozen=True)
class Survey:
    """The dataset-to-be in numbers.

    num_explanations: by split.
    rejected: rows left out, by "file: reason"; max_rejected_share: the largest share of one file.
    explanation_tokens: about the length of the longest explanation but for one in twenty; 0 without
    any. dropped: reviews by reason.
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

    @property
    def can_train_adapter(self) -> bool:
        """True if there are explanations to train on, to validate with and to test with."""
        return self.num_explanations["train"] >= 2 and all(
            self.num_explanations[split] >= 1 for split in ("validation", "test")
        )


def survey_reviews(folder: Folder, section: Mapping[str, Any]) -> Survey:
    """Read reviews as `xrec annotate` does, and count the pairs that it can explain.

    section: `annotate` of the project file. Raises DataError if it could not, or would leave out
    more than half of the rows as unusable.
    """
    config = parse_config(
        AnnotateConfig, {**section, "workspace": "", "max_rejected_share": _MOST_REJECTED}
    )
    raw = read_reviews(config, find_review_files(config))
    rejected = count_findings(raw.findings)
    check_rejected_share(rejected, raw.num_rows, _MOST_REJECTED, str(folder.location))
    kept = keep_reviews(raw.reviews, config)
    reviews = kept.reviews
    splits = Counter(reviews["split"].to_pylist())
    return Survey(
        num_users=pc.count_distinct(reviews["user_id"]).as_py(),
        num_items=pc.count_distinct(reviews["item_id"]).as_py(),
        num_interactions=reviews.num_rows,
        num_train_interactions=splits["train"],
        num_explanations={split: splits[split] for split in SPLITS},
        rejected=count_reasons(rejected),
        max_rejected_share=_largest_share(rejected, raw.num_rows),
        explanation_tokens=_ANNOTATED_TOKENS,
        dropped=kept.dropped,
    )


def survey(folder: Folder, source: TablesSource) -> Survey:
    """Read the tables as `xrec prepare` does.

    Raises DataError if it could not, or would leave out more than half of a file.
    """
    with Staging(SplitShares()) as staging:
        read_tables(staging, find_table_files(open_location(source.uri), source), source)
        metrics = assemble(staging).metrics
        rejected, num_rows = staging.rejected(), staging.num_rows
        check_rejected_share(rejected, num_rows, _MOST_REJECTED, str(folder.location))
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
        rejected=count_reasons(rejected),
        max_rejected_share=_largest_share(rejected, num_rows),
        explanation_tokens=int(np.quantile(num_words or [0], 0.95) * _TOKENS_PER_WORD),
    )


def _largest_share(rejected: Sequence[Rejected], num_rows: Mapping[str, int]) -> float:
    """The largest share of a file's rows that is rejected."""
    by_file = Counter[str]()
    for each in rejected:
        by_file[each.file] += each.count
    return max(by_file[file] / max(1, total) for file, total in num_rows.items())

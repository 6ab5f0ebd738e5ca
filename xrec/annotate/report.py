"""Writes the report of a run: figures, and some texts next to the reviews they were written from.

report.html is next to the manifest, which contains the figures too. All figures are over a sample
of pairs: those of the first users, sorted by the hash of their ids.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

import pandas as pd

from xrec.annotate.annotator import Stage, joined_text
from xrec.annotate.formats import KIND
from xrec.annotate.keep import listed
from xrec.annotate.read import Versions, stage_table
from xrec.annotate.store import ReviewStore, StoreRecord
from xrec.bulk import Published
from xrec.config import AnnotateConfig
from xrec.data import LOW_RATED
from xrec.evaluate.page import tables_page
from xrec.llm.source import public_name
from xrec.storage import location_of

logger = logging.getLogger("xrec")

_MAX_PAIRS = 5000
_MAX_WITHOUT_PRAISE = 0.75
_NUM_EXAMPLES = 20
_VERBATIM_WORDS = 8
_LABELS = {
    "pairs_without_praise": "share of reviews without praise",
    "explanation_words": "mean words per explanation",
    "aspects_per_review": "mean aspects per review",
    "verbatim_explanations": "share of explanations with eight consecutive words of the review",
}
_WORD = re.compile(r"[\w']+")


def write_report(
    config: AnnotateConfig,
    record: StoreRecord,
    versions: Versions,
    failed: Mapping[Stage, Mapping[str, int]],
) -> dict[str, float]:
    """Write the report, and return the figures for the manifest.

    failed: the number of failed rows, by stage and reason.
    """
    output = location_of(config, KIND)
    store = ReviewStore(output, record.num_files)
    pairs = _sampled_pairs(store, stage_table(output, "pairs", versions["pairs"], config.storage))
    figures = _figures(pairs)
    if (share := figures["pairs_without_praise"]) > _MAX_WITHOUT_PRAISE:
        logger.warning(
            "the annotator found no praise in %.0f %% of the reviews, so the adapter has few texts "
            "to learn from; a language model finds more, see docs/annotate.md",
            100 * share,
        )
    examples = pairs[:: max(1, len(pairs) // _NUM_EXAMPLES)][:_NUM_EXAMPLES]
    summary = {
        "reviews kept": listed({**record.num_reviews, LOW_RATED: record.num_low_rated}),
        "reviews dropped": listed(record.dropped),
        "rows rejected": listed(record.rejected),
        "personal data removed": listed(record.personal),
        **{f"{stage} failed": listed(reasons) for stage, reasons in failed.items()},
        "pairs in the sample": f"{len(pairs):,}",
        **{_LABELS[name]: f"{value:,.3f}" for name, value in figures.items()},
    }
    heading = f"Annotations of {escape(public_name(config.workspace))}, {date.today()}"
    page = {
        heading: pd.Series(summary).to_frame(),
        "Explanations and their reviews": pd.DataFrame(map(_shown, examples)),
    }
    (output / "report.html").write_bytes(tables_page(page).encode())
    return figures


def repeats_verbatim(text: str, review: str) -> bool:
    """Return whether the text repeats eight consecutive words of the review."""
    words, reviewed = _words(text), f" {' '.join(_words(review))} "
    return any(
        f" {' '.join(words[start : start + _VERBATIM_WORDS])} " in reviewed
        for start in range(len(words) - _VERBATIM_WORDS + 1)
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _sampled_pairs(store: ReviewStore, table: Published) -> list[dict[str, Any]]:
    """Return a sample of the pairs that succeeded, with their reviews, without low-rated pairs."""
    pairs: list[dict[str, Any]] = []
    for rows in table.batches(("user_id", "item_id", "split", "explanation", "aspects")):
        if len(pairs) < _MAX_PAIRS:
            pairs += [pair for pair in rows.to_pylist() if pair["split"] != LOW_RATED]
    reviews = store.of("all_by_user", {pair["user_id"] for pair in pairs}).to_pylist()
    texts = {
        (each["user_id"], each["item_id"]): joined_text(each["summary"], each["review"])
        for each in reviews
    }
    return [{**pair, "review": texts[pair["user_id"], pair["item_id"]]} for pair in pairs]


def _figures(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    explained = [(pair["explanation"], pair["review"]) for pair in pairs if pair["explanation"]]
    return {
        "pairs_without_praise": _mean([not pair["explanation"] for pair in pairs]),
        "explanation_words": _mean([len(_words(text)) for text, _ in explained]),
        "aspects_per_review": _mean([len(pair["aspects"]) for pair in pairs]),
        "verbatim_explanations": _mean([repeats_verbatim(*pair) for pair in explained]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _shown(pair: Mapping[str, Any]) -> dict[str, str]:
    aspects = [
        " ".join(filter(None, (each["aspect"], each["opinion"], f"({each['sentiment']})")))
        for each in pair["aspects"]
    ]
    names = ("split", "explanation", "review")
    return {**{name: pair[name] for name in names}, "aspects": "; ".join(aspects)}

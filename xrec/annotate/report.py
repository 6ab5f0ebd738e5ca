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
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import LOW_RATED, Stage
from xrec.annotate.formats import KIND
from xrec.annotate.read import Versions, read_stage, stage_table
from xrec.annotate.store import ReviewStore, StoreRecord
from xrec.bulk import Published
from xrec.config import AnnotateConfig
from xrec.evaluate.page import tables_page
from xrec.llm.source import public_name
from xrec.storage import location_of, storage_errors

logger = logging.getLogger("xrec")

_MAX_PAIRS = 5000
_MAX_WITHOUT_PRAISE = 0.75
_NUM_EXAMPLES = 20
_VERBATIM_WORDS = 8
_SHOWN_REVIEWS, _SHOWN_LETTERS = 3, 600
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
    failed: Mapping[str, Mapping[str, int]],
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
    step = max(1, len(pairs) // _NUM_EXAMPLES)
    examples = pairs[::step][:_NUM_EXAMPLES]
    tables = {
        "Dropped, rejected, removed and failed": pd.DataFrame(_losses(record, failed)),
        "Explanations and their reviews": pd.DataFrame(map(_shown_pair, examples)),
    }
    columns: dict[Stage, tuple[str, ...]] = {
        "items": ("item_id", "title", "profile"),
        "users": ("user_id", "profile"),
    }
    for stage, names in columns.items():
        texts = read_stage(output, stage, versions[stage], names, config.storage)
        ids = list(dict.fromkeys(pair[names[0]] for pair in examples))
        title = f"{stage.capitalize()} and some of their training reviews"
        tables[title] = _shown_profiles(store, texts, ids)
    counts = {**record.num_reviews, LOW_RATED: record.num_low_rated}
    summary = {
        "reviews": ", ".join(f"{count:,} {name}" for name, count in counts.items()),
        "users": f"{record.num_users:,}",
        "items": f"{record.num_items:,}",
        "pairs in the sample": f"{len(pairs):,}",
        **{_LABELS[name]: f"{value:,.3f}" for name, value in figures.items()},
    }
    heading = f"Annotations of {escape(public_name(config.workspace))}, {date.today()}"
    page = {heading: pd.Series(summary).to_frame(), **tables}
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
    reviews: dict[tuple[str, str], str] = {}
    for rows in store.reviews("all_by_user"):
        for row in rows.select(["user_id", "item_id", "review", "summary"]).to_pylist():
            text = f"{row['summary']}. {row['review']}" if row["summary"] else row["review"]
            reviews[row["user_id"], row["item_id"]] = text
        if len(reviews) >= _MAX_PAIRS:
            break
    users = pa.array(sorted({user for user, _ in reviews}), pa.string())
    names = ["user_id", "item_id", "split", "explanation", "aspects"]
    is_kept = pc.field("user_id").isin(users) & (pc.field("split") != LOW_RATED)
    with storage_errors(table.log.location.uri):
        pairs = table.dataset().to_table(columns=names, filter=is_kept)
    rows = pairs.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist()
    return [{**row, "review": reviews[row["user_id"], row["item_id"]]} for row in rows]


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


def _losses(record: StoreRecord, failed: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    losses: dict[str, Mapping[str, int]] = {
        "dropped": record.dropped,
        "rejected": record.rejected,
        "personal data removed": record.personal,
        **{f"failed: {stage}": reasons for stage, reasons in failed.items()},
    }
    return [
        {"what": what, "reason": reason, "number": number}
        for what, reasons in losses.items()
        for reason, number in reasons.items()
    ]


def _shown_pair(pair: Mapping[str, Any]) -> dict[str, str]:
    aspects = [
        " ".join(filter(None, (each["aspect"], each["opinion"], f"({each['sentiment']})")))
        for each in pair["aspects"]
    ]
    shown = {"aspects": "; ".join(aspects), "review": pair["review"][:_SHOWN_LETTERS]}
    return {"split": pair["split"], "explanation": pair["explanation"], **shown}


def _shown_profiles(store: ReviewStore, texts: pa.Table, ids: Sequence[str]) -> pd.DataFrame:
    """Return the profiles of users or items, with a few of their training reviews.

    texts: the first column contains their ids.
    """
    key = texts.column_names[0]
    reviews = store.of("training_by_item" if key == "item_id" else "training_by_user", ids)
    frame = reviews.select([key, "review"]).to_pandas().groupby(key).head(_SHOWN_REVIEWS)
    joined = frame["review"].str[:_SHOWN_LETTERS].groupby(frame[key]).agg(" \u2022 ".join)
    profiles = texts.filter(pc.field(key).isin(pa.array(ids, pa.string()))).to_pandas()
    return profiles.assign(reviews=profiles[key].map(joined).fillna(""))

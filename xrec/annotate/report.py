"""How good the texts are, as far as it can be counted, with some beside the reviews they came from.

report.html lies beside the manifest, which has the figures. Shares are of a sample of pairs: those
of the first users by the hash of their ids.
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

_MOST_PAIRS = 5000
_MOST_WITHOUT_PRAISE = 0.75
_NUM_EXAMPLES = 20
_VERBATIM_WORDS = 8
_SHOWN_REVIEWS, _SHOWN_LETTERS = 3, 600
_LABELS = {
    "pairs_without_praise": "reviews in which no praise was found, share",
    "explanation_words": "words of an explanation, mean",
    "aspects_per_review": "aspects of a review, mean",
    "verbatim_explanations": "explanations that repeat eight words of their review, share",
}
_WORD = re.compile(r"[\w']+")


def write_report(
    config: AnnotateConfig,
    record: StoreRecord,
    versions: Versions,
    failed: Mapping[str, Mapping[str, int]],
) -> dict[str, float]:
    """Write the report below the output; returns the figures for the manifest.

    failed: numbers of failed rows, by stage and reason.
    """
    output = location_of(config, KIND)
    store = ReviewStore(output, record.num_files)
    pairs = _sampled_pairs(store, stage_table(output, "pairs", versions["pairs"], config.storage))
    figures = _figures(pairs)
    if (share := figures["pairs_without_praise"]) > _MOST_WITHOUT_PRAISE:
        logger.warning(
            "in %.0f %% of the reviews the annotator found no praise, so the adapter has few texts "
            "to learn from; a language model reads more: see `annotator` in docs/annotate.md",
            100 * share,
        )
    step = max(1, len(pairs) // _NUM_EXAMPLES)
    examples = pairs[::step][:_NUM_EXAMPLES]  # from all of them at equal distances
    tables = {
        "What was dropped, rejected, removed, and failed": _losses(record, failed),
        "Explanations beside their reviews": [_shown_pair(pair) for pair in examples],
    }
    for stage in ("items", "users"):
        title = f"{stage.capitalize()}, beside some of their training reviews"
        tables[title] = _shown_profiles(config, store, versions, examples, stage)
    counts = {**record.num_reviews, LOW_RATED: record.num_low_rated}
    summary = {
        "reviews": ", ".join(f"{count:,} {name}" for name, count in counts.items()),
        "users": f"{record.num_users:,}",
        "items": f"{record.num_items:,}",
        "pairs in the sample": f"{len(pairs):,}",
        **{_LABELS[name]: f"{value:,.3f}" for name, value in figures.items()},
    }
    heading = f"Annotations of {escape(public_name(config.workspace))}, {date.today()}"
    page = {heading: pd.Series(summary).to_frame()}
    page |= {title: pd.DataFrame(rows) for title, rows in tables.items()}
    (output / "report.html").write_bytes(tables_page(page).encode())
    return figures


def repeats_verbatim(text: str, review: str) -> bool:
    """Whether eight words in a row of the text stand so in the review."""
    words, there = _words(text), f" {' '.join(_words(review))} "
    return any(
        f" {' '.join(words[start : start + _VERBATIM_WORDS])} " in there
        for start in range(len(words) - _VERBATIM_WORDS + 1)
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _sampled_pairs(store: ReviewStore, table: Published) -> list[dict[str, Any]]:
    """Pairs that did not fail, low-rated ones left out, with their reviews, by user and item."""
    reviews: dict[tuple[str, str], str] = {}
    for rows in store.reviews("all_by_user"):
        for row in rows.select(["user_id", "item_id", "review", "summary"]).to_pylist():
            text = f"{row['summary']}. {row['review']}" if row["summary"] else row["review"]
            reviews[row["user_id"], row["item_id"]] = text
        if len(reviews) >= _MOST_PAIRS:
            break
    users = pa.array(sorted({user for user, _ in reviews}), pa.string())
    names = ["user_id", "item_id", "split", "explanation", "aspects"]
    is_kept = pc.field("user_id").isin(users) & (pc.field("split") != LOW_RATED)
    with storage_errors(table.log.location.uri):
        found = table.dataset().to_table(columns=names, filter=is_kept)
    rows = found.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist()
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


def _shown_profiles(
    config: AnnotateConfig,
    store: ReviewStore,
    versions: Versions,
    examples: Sequence[Mapping[str, Any]],
    stage: Stage,
) -> list[dict[str, str]]:
    """The profiles of the examples' users or items, with a few of the reviews behind them."""
    key = "item_id" if stage == "items" else "user_id"
    ids = list(dict.fromkeys(row[key] for row in examples))
    columns = (key, "title", "profile") if stage == "items" else (key, "profile")
    texts = read_stage(location_of(config, KIND), stage, versions[stage], columns, config.storage)
    found = texts.filter(pc.field(key).isin(pa.array(ids, pa.string()))).to_pylist()
    reviews = store.of("training_by_item" if stage == "items" else "training_by_user", ids)
    by_id: dict[str, list[str]] = {}
    for row in reviews.select([key, "review"]).to_pylist():
        by_id.setdefault(row[key], []).append(row["review"][:_SHOWN_LETTERS])
    return [
        {**row, "reviews": " \u2022 ".join(by_id.get(row[key], [])[:_SHOWN_REVIEWS])}
        for row in found
    ]

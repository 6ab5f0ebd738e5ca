"""How good the texts are, as far as it can be counted, with some beside the reviews they came from.

report.json and report.html lie beside the manifest. Shares are of a sample of pairs: those of the
first users by the hash of their ids.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.formats import Stage
from xrec.annotate.read import read_stage, stage_table
from xrec.annotate.rows import LOW_RATED
from xrec.annotate.store import ReviewStore, StoreRecord
from xrec.annotate.vocabulary import normalized
from xrec.bulk import Published
from xrec.config.annotate import AnnotateConfig
from xrec.storage import location_of, storage_errors

_MOST_PAIRS = 5000
_NUM_EXAMPLES = 20
_VERBATIM_WORDS = 8
_SHOWN_REVIEWS, _SHOWN_LETTERS, _SHOWN_ASPECTS = 3, 600, 30
_HEAD = (
    "<!doctype html><meta charset=utf-8><title>Annotations</title><style>body{font:15px/1.5 "
    "system-ui;max-width:72rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}"
    "td,th{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid "
    "#ddd}</style>"
)
_WORD = re.compile(r"[\w']+")


def write_report(
    config: AnnotateConfig,
    record: StoreRecord,
    versions: Mapping[Stage, int],
    failed: Mapping[str, Mapping[str, int]],
    *,
    is_english: bool,
) -> dict[str, Any]:
    """Write both files below the output; returns the figures for the manifest.

    failed: numbers of failed rows, by stage and reason. is_english: whether the aspects' names are.
    """
    output = location_of(config, "annotations")
    store = ReviewStore(output, record.num_files)
    pairs = _sampled_pairs(store, stage_table(output, "pairs", versions["pairs"], config.storage))
    figures = _figures(pairs, is_english=is_english)
    examples = _spread(pairs, _NUM_EXAMPLES)
    report = {
        "reviews": {**record.num_reviews, LOW_RATED: record.num_low_rated},
        "users": record.num_users,
        "items": record.num_items,
        "dropped": record.dropped,
        "rejected": record.rejected,
        "personal_removed": record.personal,
        "failed": failed,
        "sampled_pairs": len(pairs),
        **figures,
        "frequent_aspects": _frequent(pairs, is_english=is_english),
        "explanations": [_shown_pair(row) for row in examples],
        "items_shown": _shown_profiles(config, store, versions, examples, "items"),
        "users_shown": _shown_profiles(config, store, versions, examples, "users"),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (output / "report.json").write_bytes(f"{text}\n".encode())
    (output / "report.html").write_bytes(_page(report).encode())
    return figures


def repeats_verbatim(text: str, review: str) -> bool:
    """Whether eight words in a row of the text stand so in the review."""
    words, there = _words(text), f" {' '.join(_words(review))} "
    return any(
        f" {' '.join(words[start : start + _VERBATIM_WORDS])} " in there
        for start in range(len(words) - _VERBATIM_WORDS + 1)
    )


def stands_in(aspect: str, review: str, *, is_english: bool = True) -> bool:
    """Whether the words of an aspect stand in the review, in the singular or as they are."""
    normal = functools.partial(normalized, is_english=is_english)
    there = {*map(normal, _words(review)), *_words(review)}
    return all(word in there or normal(word) in there for word in _words(aspect))


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


def _figures(pairs: Sequence[dict[str, Any]], *, is_english: bool) -> dict[str, Any]:
    stands = functools.partial(stands_in, is_english=is_english)
    named = [(each, pair["review"]) for pair in pairs for each in pair["aspects"]]
    explained = [pair for pair in pairs if pair["explanation"]]
    return {
        "pairs_without_praise": _mean([not pair["explanation"] for pair in pairs]),
        "explanation_words": _mean([len(_words(pair["explanation"])) for pair in explained]),
        "distinct_words_per_100_explanations": _distinct(_spread(explained, 100)),
        "aspects_per_review": len(named) / len(pairs) if pairs else 0.0,
        "aspects_in_review": _mean([stands(each["aspect"], review) for each, review in named]),
        "aspects_or_opinions_in_review": _mean(
            [
                stands(each["aspect"], review)
                or bool(each["opinion"] and stands(each["opinion"], review))
                for each, review in named
            ]
        ),
        "verbatim_explanations": _mean(
            [repeats_verbatim(pair["explanation"], pair["review"]) for pair in explained]
        ),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _distinct(pairs: Sequence[Mapping[str, Any]]) -> int:
    return len({word for pair in pairs for word in _words(pair["explanation"])})


def _frequent(pairs: Sequence[Mapping[str, Any]], *, is_english: bool) -> dict[str, int]:
    counts: dict[str, int] = {}
    for pair in pairs:
        if pair["split"] == "train":
            for each in pair["aspects"]:
                name = normalized(each["aspect"], is_english=is_english)
                counts[name] = counts.get(name, 0) + 1
    best = sorted(counts, key=lambda name: (-counts[name], name))[:_SHOWN_ASPECTS]
    return {name: counts[name] for name in best}


def _spread(pairs: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Some of the pairs, from all of them at equal distances."""
    step = max(1, len(pairs) // number)
    return list(pairs[::step][:number])


def _shown_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "review": row["review"][:_SHOWN_LETTERS]}


def _shown_profiles(
    config: AnnotateConfig,
    store: ReviewStore,
    versions: Mapping[Stage, int],
    examples: Sequence[Mapping[str, Any]],
    stage: Stage,
) -> list[dict[str, Any]]:
    """The profiles of the examples' users or items, with a few of the reviews behind them."""
    key = "item_id" if stage == "items" else "user_id"
    ids = list(dict.fromkeys(row[key] for row in examples))
    columns = (key, "profile", *(("title",) if stage == "items" else ()))
    output = location_of(config, "annotations")
    texts = read_stage(output, stage, versions[stage], columns, config.storage)
    found = texts.filter(pc.is_in(texts[key], value_set=pa.array(ids, pa.string()))).to_pylist()
    reviews = store.of("training_by_item" if stage == "items" else "training_by_user", ids)
    by_id: dict[str, list[str]] = {}
    for row in reviews.select([key, "review"]).to_pylist():
        by_id.setdefault(row[key], []).append(row["review"][:_SHOWN_LETTERS])
    return [{**row, "reviews": by_id.get(row[key], [])[:_SHOWN_REVIEWS]} for row in found]


def _page(report: Mapping[str, Any]) -> str:
    """The report as an HTML page without other files."""
    losses = {name: report[name] for name in ("dropped", "rejected", "personal_removed")}
    losses |= {f"failed: {stage}": reasons for stage, reasons in report["failed"].items()}
    lost = [(what, *each) for what, reasons in losses.items() for each in reasons.items()]
    explained = [
        {**row, "aspects": "; ".join(map(_aspect, row["aspects"]))}
        for row in report["explanations"]
    ]
    figures = {name: value for name, value in report.items() if not isinstance(value, dict | list)}
    tables = {
        "Annotations": pd.Series({"reviews": report["reviews"], **figures}, dtype=object)
        .map(_cell)
        .to_frame(""),
        "What was dropped, rejected, removed, and failed": pd.DataFrame(
            lost, columns=["what", "reason", "number"]
        ),
        "The most frequent aspects, and their training reviews in the sample": pd.DataFrame(
            report["frequent_aspects"].items(), columns=["aspect", "reviews"]
        ),
        "Explanations beside their reviews": pd.DataFrame(
            explained, columns=["split", "explanation", "aspects", "review"]
        ),
        "Items, beside some of their training reviews": pd.DataFrame(
            map(_listed, report["items_shown"]), columns=["title", "profile", "reviews"]
        ),
        "Users, beside some of their training reviews": pd.DataFrame(
            map(_listed, report["users_shown"]), columns=["user_id", "profile", "reviews"]
        ),
    }
    with pd.option_context("display.max_colwidth", None):  # it would cut the texts
        return _HEAD + "".join(
            f"<h2>{title}</h2>{table.to_html(index=title == 'Annotations')}"
            for title, table in tables.items()
        )


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _aspect(each: Mapping[str, str]) -> str:
    return " ".join(filter(None, (each["aspect"], each["opinion"], f"({each['sentiment']})")))


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "reviews": " \u2022 ".join(row["reviews"])}

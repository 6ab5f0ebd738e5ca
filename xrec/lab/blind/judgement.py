"""What people's answers say: mean ratings, wins against the first entry, agreement.

A win is a pair and a judge who rated the entry higher than the first one; equal ratings count
half. Intervals are by user. Agreement is Krippendorff's alpha of ordinal ratings (Krippendorff
2004): 1 if judges always agree, 0 if no more than by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.lab.markdown import table_lines

Row = Mapping[str, Any]
"""A row of the schema RATINGS."""


@dataclass(frozen=True)
class Judged:
    """A entry by one question; `win_rate` is None for the first one."""

    entry: str
    question: str
    rating: Estimate
    win_rate: Estimate | None
    num_ratings: int


@dataclass(frozen=True)
class Judgement:
    """What the answers of `num_judges` people say; `alpha` by question, None of a single judge."""

    num_judges: int
    judged: tuple[Judged, ...]
    alpha: Mapping[str, float | None]


def judge(ratings: pa.Table, entries: Sequence[str], *, num_samples: int, seed: int) -> Judgement:
    """Evaluate ratings (schema RATINGS); the first entry is what others win against."""
    by_question: dict[str, list[Row]] = {}
    for row in ratings.to_pylist():
        by_question.setdefault(row["question"], []).append(row)
    drawing = {"num_samples": num_samples, "seed": seed}
    found = [
        _judged(rows, name, entries[0], question, drawing)
        for question, rows in by_question.items()
        for name in entries
        if any(row["entry"] == name for row in rows)
    ]
    alpha = {question: agreement(rows) for question, rows in by_question.items()}
    return Judgement(len(set(ratings["judge"].to_pylist())), tuple(found), alpha)


def _judged(
    rows: Sequence[Row], name: str, first: str, question: str, drawing: Mapping[str, int]
) -> Judged:
    own = [row for row in rows if row["entry"] == name]
    users = [row["user_id"] for row in own]
    rating = bootstrap_mean([row["rating"] for row in own], users, **drawing)
    against = {_of_judge(row): row["rating"] for row in rows if row["entry"] == first}
    both = [(row, against[key]) for row in own if (key := _of_judge(row)) in against]
    win_rate = None
    if name != first and both:
        wins = [(row["rating"] > other) + 0.5 * (row["rating"] == other) for row, other in both]
        win_rate = bootstrap_mean(wins, [row["user_id"] for row, _ in both], **drawing)
    return Judged(name, question, rating, win_rate, len(own))


def _of_judge(row: Row) -> tuple[str, str, str]:
    return row["judge"], row["user_id"], row["item_id"]


def agreement(rows: Sequence[Row]) -> float | None:
    """Krippendorff's alpha of ratings of one question; None without a text that two people rated.

    1 if all ratings are the same one: nothing was there to disagree on.
    """
    import krippendorff  # an extra, which `check_packages` asks for

    def text_of(row: Row) -> tuple[str, str, str]:
        return row["user_id"], row["item_id"], row["entry"]

    judges = {name: place for place, name in enumerate(sorted({row["judge"] for row in rows}))}
    texts = {key: place for place, key in enumerate(dict.fromkeys(map(text_of, rows)))}
    given = np.full((len(judges), len(texts)), np.nan)
    for row in rows:
        given[judges[row["judge"]], texts[text_of(row)]] = row["rating"]
    rated_twice = given[:, (~np.isnan(given)).sum(axis=0) > 1]
    values = rated_twice[~np.isnan(rated_twice)]
    if not values.size:
        return None
    if len(np.unique(values)) == 1:
        return 1.0
    return float(krippendorff.alpha(reliability_data=given, level_of_measurement="ordinal"))


def judgement_page(judgement: Judgement) -> str:
    """The Markdown of it all."""
    lines = [
        "# What people say",
        "",
        f"Answers of {judgement.num_judges} judges, from 1 (no) to 5 (yes), about texts whose",
        "source they did not see. A win is a higher rating than the first entry's by the same",
        "judge for the same pair; equal ones count half. In brackets: 95 % intervals by user.",
        "",
        *table_lines(
            ("entry", "question", "mean rating", "wins against the first", "ratings"),
            [_row(each) for each in judgement.judged],
        ),
        "",
        "Agreement, Krippendorff's alpha (ordinal): 1 always, 0 as by chance.",
        "",
    ]
    for question, alpha in judgement.alpha.items():
        shown = "no text was rated by two judges" if alpha is None else f"{alpha:.3f}"
        lines.append(f"- {question}: {shown}")
    return "\n".join(lines) + "\n"


def _row(judged: Judged) -> tuple[str, ...]:
    return (
        f"`{judged.entry}`",
        judged.question,
        judged.rating.text(2),
        "" if judged.win_rate is None else judged.win_rate.text(2),
        str(judged.num_ratings),
    )

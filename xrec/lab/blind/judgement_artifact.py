"""The artifact of what people's answers say: the ratings, JSON, and `people.md` for reading."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from xrec.lab.blind.answers import RATINGS
from xrec.lab.blind.judgement import Judged, Judgement
from xrec.lab.markdown import table_lines
from xrec.storage import (
    MANIFEST,
    Location,
    Manifest,
    write_contents,
    write_manifest,
    write_table,
)

PEOPLE = "people.md"


def write_judgement(
    location: Location,
    judgement: Judgement,
    ratings: pa.Table,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write answers.parquet, people.json and people.md, and the manifest last.

    An earlier judgement's manifest is deleted first.
    """
    (location / MANIFEST).delete()
    files = {"answers.parquet": write_table(location / "answers.parquet", ratings, RATINGS)}
    texts = {
        "people.json": json.dumps(asdict(judgement), indent=2, allow_nan=False) + "\n",
        PEOPLE: page_of(judgement),
    }
    files |= write_contents(location, texts)
    return write_manifest(
        location,
        "judgements",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"ratings": ratings.num_rows, "judges": judgement.num_judges},
    )


def page_of(judgement: Judgement) -> str:
    """The Markdown of it all."""
    lines = [
        "# What people say",
        "",
        f"Answers of {judgement.num_judges} judges, from 1 (no) to 5 (yes), about texts whose",
        "source they did not see. A win is a higher rating than the first contestant's by the same",
        "judge for the same pair; equal ones count half. In brackets: 95 % intervals by user.",
        "",
        *table_lines(
            ("contestant", "question", "mean rating", "wins against the first", "ratings"),
            [_judged_row(each) for each in judgement.judged],
        ),
    ]
    lines += ["", "Agreement, Krippendorff's alpha (ordinal): 1 always, 0 as by chance.", ""]
    for question, alpha in judgement.alpha.items():
        shown = "no text was rated by two judges" if alpha is None else f"{alpha:.3f}"
        lines.append(f"- {question}: {shown}")
    if judgement.correlations:
        lines += [
            "",
            "Spearman's correlation of each automatic metric with the mean ratings, over texts.",
            "",
            *table_lines(
                ("metric", "question", "correlation", "texts"),
                [
                    (each.metric, each.question, each.spearman.text(3), str(each.num_texts))
                    for each in judgement.correlations
                ],
            ),
        ]
    return "\n".join(lines) + "\n"


def _judged_row(judged: Judged) -> tuple[str, ...]:
    return (
        f"`{judged.contestant}`",
        judged.question,
        judged.rating.text(2),
        "" if judged.win_rate is None else judged.win_rate.text(2),
        str(judged.num_ratings),
    )

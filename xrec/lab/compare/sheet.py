"""Blind sheets for people who judge the texts of a comparison, and their scores.

A sheet is a CSV file with a row per text, in random order and without the names of the entries. Its
key, a table in the comparison's folder, says whose text each row has. Judges fill in `CRITERIA`.
"""

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from xrec.config import CompareConfig
from xrec.data import drawn_pairs, parse_id, read_dataset, stream_rows, taken
from xrec.errors import ConfigError, DataError
from xrec.evaluate.claims import known_texts
from xrec.evaluate.intervals import Estimate, mean_interval
from xrec.evaluate.measure import Floats
from xrec.lab.compare.copies import whole_rows
from xrec.lab.compare.entries import compared_pairs
from xrec.lab.compare.texts import ALL_TEXTS
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    Manifest,
    fingerprint_of,
    location_of,
    open_location,
    read_table,
    write_table,
)

CRITERIA = ("true", "personal", "fluent")
"""The columns that judges fill in with whole numbers from 1 to 5."""
_KEY = pa.schema(
    [*PAIRS, *(pa.field(name, pa.string(), nullable=False) for name in ("entry", "id"))]
)
_NUM_TITLES = 10  # of a user's history


def write_sheet(
    config: CompareConfig, comparison: Manifest, uri: str, *, num_pairs: int, seed: int
) -> int:
    """Write a sheet of some pairs to `uri`, and its key; return the number of texts.

    Sheets with other seeds differ in their order only. Raises ConfigError if the file exists,
    because a judge may have filled it in.
    """
    dataset = read_dataset(location_of(config, "dataset"))
    pairs = {p.ids: p for p in drawn_pairs(compared_pairs(config, dataset), num_pairs)}
    texts = read_table(location_of(config, "comparison") / "texts.parquet", ALL_TEXTS).to_pylist()
    rows = [row for row in texts if row["text"] and (row["user_id"], row["item_id"]) in pairs]
    numbers = random.Random(0).sample(range(1, len(rows) + 1), len(rows))
    sheet, shown = fingerprint_of([comparison.fingerprint, num_pairs])[:8], []
    users, items = dataset.interaction_edges("train")
    for row, number in zip(rows, numbers, strict=True):
        pair = pairs[row["user_id"], row["item_id"]]
        title, item, user = known_texts(dataset, pair.user_index, pair.item_index)
        first, last = np.searchsorted(users, [pair.user_index, pair.user_index + 1])
        history = taken(dataset.items["title"], items[first:last][:_NUM_TITLES])
        row["id"] = f"{sheet}-{number:04}"
        cells = (row["id"], title, item, user, "; ".join(history), row.pop("text"))
        shown.append([*map(_cell, cells), *("" for _ in CRITERIA)])
    write_table(_key(config, sheet), pa.Table.from_pylist(rows, _KEY), _KEY)
    random.Random(seed).shuffle(shown)
    table = pd.DataFrame(
        shown, columns=["id", "title", "item", "user", "history", "text", *CRITERIA]
    )
    content = table.to_csv(index=False, lineterminator="\n").encode("utf-8-sig")
    if not open_location(uri, config.storage).create_bytes(content):
        raise ConfigError(
            f"--to {uri}: this file exists, and may have been filled in; give a new one",
            code="file_exists",
            key="--to",
            saw=uri,
        )
    return len(rows)


def _key(config: CompareConfig, sheet: str) -> Location:
    return location_of(config, "comparison") / "sheets" / f"{sheet}.parquet"


def _cell(text: str) -> str:
    """Return a text on one line, which no spreadsheet runs as a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


@dataclass(frozen=True)
class Ratings:
    """What judges say of the entries: by entry, in the order of `CRITERIA`.

    own: means. minus_first: differences of the others to the first entry, judge by judge and pair
    by pair. Both have intervals over users and judges, and are None without a pair. agreement:
    `krippendorff_alpha` by criterion.
    """

    num_texts: Mapping[str, int]
    own: Mapping[str, Sequence[Estimate | None]]
    minus_first: Mapping[str, Sequence[Estimate | None]]
    agreement: Mapping[str, float | None]


def read_sheets(config: CompareConfig, uris: Sequence[str]) -> Ratings:
    """Return what the judges say, each in a sheet of the same texts.

    Raises DataError for a sheet of another comparison, for rows that are missing, repeated or
    unknown, and for a score that is not a whole number from 1 to 5.
    """
    read = {uri: _read_sheet(config, uri) for uri in uris}
    sheet = next(iter(read[uris[0]]), "").rpartition("-")[0]
    if not (file := _key(config, sheet)).is_file():
        raise DataError(
            f"{uris[0]}: its IDs begin with {sheet!r}, and {file} does not exist; expected a sheet "
            "of this comparison, written by xrec lab sheet; check the file and the config",
            code="another_comparison",
            key=uris[0],
            saw=sheet,
        )
    key = read_table(file, _KEY).to_pandas()
    for uri, rows in read.items():
        missing, unknown = {*key["id"]} - {*rows}, {*rows} - {*key["id"]}
        if missing or unknown:
            raise DataError(
                f"{uri}: {len(missing)} rows are missing, and {len(unknown)} are unknown, such as "
                f"{min(missing | unknown)}; expected the {len(key)} rows of sheet {sheet}, in any "
                "order; correct the file",
                code="other_rows",
                key=uri,
                saw=(len(missing), len(unknown)),
            )
    entries = [*dict.fromkeys(key["entry"])]
    pairs = key.assign(row=key.index).pivot(
        index=["user_id", "item_id"], columns="entry", values="row"
    )
    rows_of, users = pairs[entries].to_numpy().T, [user for user, _ in pairs.index]
    scores = np.array(
        [[[float(rows[n][name]) for n in key["id"]] for name in CRITERIA] for rows in read.values()]
    )  # (judges, criteria, texts)
    by_entry = scores[:, :, np.nan_to_num(rows_of).astype(int)]
    by_entry[:, :, np.isnan(rows_of)] = np.nan  # (judges, criteria, entries, pairs)

    def means(values: Floats) -> dict[str, list[Estimate | None]]:
        """Return the mean of each criterion by entry."""
        return {
            name: [
                mean_interval(of, users) if np.isfinite(of).any() else None
                for of in values[:, :, place].swapaxes(0, 1)
            ]
            for place, name in enumerate(entries)
        }

    own, minus_first = means(by_entry), means(by_entry - by_entry[:, :, :1])
    del minus_first[entries[0]]
    agreement = {name: krippendorff_alpha(scores[:, n]) for n, name in enumerate(CRITERIA)}
    return Ratings(key["entry"].value_counts().to_dict(), own, minus_first, agreement)


def _read_sheet(config: CompareConfig, uri: str) -> dict[str, dict[str, str]]:
    """Return the rows of a sheet by their IDs."""
    content = io.BytesIO(open_location(uri, config.storage).read_bytes())
    columns = {"id": parse_id, **dict.fromkeys(CRITERIA, _parse_score)}
    advice = "keep the sheet's columns, and save it as CSV with commas"
    rows = stream_rows(uri, content, columns, advice=advice)
    return {row["id"]: row for row in whole_rows(rows, ["id"], uri, "or ask the judge")}


def _parse_score(cell: object) -> str:
    if (text := str(cell).strip()) not in {*"12345"}:
        raise ValueError(f"must be a whole number from 1 to 5, saw {text!r}")
    return text


def krippendorff_alpha(scores: Floats) -> float | None:
    """Return the agreement on scores (judges, units), NaN where a judge gave none.

    Krippendorff's alpha for ordinal values (2011, "Computing Krippendorff's Alpha-Reliability"):
    1 is perfect, 0 is chance. None if no unit has two scores, or all of these are the same.
    """
    levels = np.unique(scores[np.isfinite(scores)])
    counts = (scores[:, :, None] == levels).sum(axis=0)  # (units, levels)
    counts = counts[counts.sum(axis=1) > 1]
    totals = counts.sum(axis=0)
    ranks = totals.cumsum() - totals / 2
    distances = (ranks[:, None] - ranks) ** 2
    expected = totals @ distances @ totals / max(1, totals.sum() - 1)
    observed = np.einsum("uc,ck,uk->u", counts, distances, counts) / (counts.sum(axis=1) - 1)
    return 1 - float(observed.sum() / expected) if expected else None

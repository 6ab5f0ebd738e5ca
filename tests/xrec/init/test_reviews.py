"""Reviews as people export them: what `xrec init` makes of them, and what annotate then reads."""

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.errors import raises
from tests.world.program import said, xrec
from tests.world.shop import review, write_json_lines
from tests.xrec.init.test_project import CPU
from xrec.annotate.keep import KeptReviews, keep_reviews
from xrec.annotate.source import RawReviews, find_review_files, read_reviews
from xrec.config import AnnotateConfig, load_config
from xrec.errors import ConfigError, DataError
from xrec.init import Findings, init_project

NUM_USERS, NUM_ITEMS = 12, 6


def _reviews(**more: Any) -> list[dict[str, Any]]:
    return [
        review(
            f"u{user}",
            f"i{(user + number) % NUM_ITEMS}",
            f"The warm tone is great and it is easy to use, number {number}.",
            **{"rating": 5 - number % 2, "time": 1000 + number, **more},
        )
        for user in range(NUM_USERS)
        for number in range(5)
    ]


def _made(tmp_path: Path, source: Path) -> tuple[Findings, dict[str, Any]]:
    findings = init_project(str(tmp_path / "project"), str(source), machine=CPU)
    values = yaml.safe_load((tmp_path / "project" / "xrec.yaml").read_text())
    return findings, values


def test_init_from_a_file_of_reviews_writes_all_jobs_from_annotate_on(tmp_path):
    path = write_json_lines(tmp_path / "reviews.jsonl.gz", _reviews())
    findings, values = _made(tmp_path, path)
    jobs = ["annotate", "prepare", "pretrain-graph", "train-adapter"]
    assert list(values)[5:9] == jobs
    assert values["prompt"]["aspects"] == 3
    assert values["decoding"]["text"]["checks"]["unsupported"] is True
    good = "good review|good reviews"  # those below min_rating do not count
    assert values["decoding"]["text"]["plain"] == {"reviews": good}
    assert values["pretrain-graph"]["model"]["aspects"] is True
    assert values["annotate"] == {
        "source": {"uri": str(path)},
        "rating_range": [1, 5],
        "min_rating": 4,
        "split": {"by": "time"},
        "annotator": {"kind": "phrases"},
    }
    assert values["prepare"] == {"source": {"kind": "annotations"}}
    assert findings.survey.num_explanations == {"train": 36, "validation": 12, "test": 12}
    assert [*findings.notes()] == [
        "no table of items: items have no titles, so texts use the words of their reviews"
    ]


def test_init_from_amazon_s_files_maps_columns_of_both(tmp_path):
    names = {"user_id": "reviewerID", "item_id": "asin", "review": "reviewText"}
    names |= {"rating": "overall", "time": "unixReviewTime"}
    more = {"reviewerName": "Some One", "helpful": [0, 0], "summary": "Works"}
    more |= {"reviewTime": "09 30"}
    rows = [{**{theirs: row[ours] for ours, theirs in names.items()}, **more} for row in _reviews()]
    items = [
        {"asin": f"i{number}", "title": f"Cable {number}", "brand": "Ax", "price": 3.5}
        for number in range(NUM_ITEMS)
    ]
    write_json_lines(tmp_path / "raw" / "reviews_Music.json", rows)
    write_json_lines(tmp_path / "raw" / "meta_Music.json", items)
    _, values = _made(tmp_path, tmp_path / "raw")
    assert values["annotate"]["source"] == {
        "uri": str(tmp_path / "raw"),
        "files": {"reviews": "reviews_Music.json", "items": "meta_Music.json"},
        "columns": names,
    }
    assert list(values["decoding"]["text"]["plain"]) == ["reviews"]  # the source has titles


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"rating": 9}, {"rating_range": [1, 10], "min_rating": 8}),
        ({"rating": 0.5}, {"rating_range": [0.5, 5], "min_rating": 4}),
        ({"rating": 0}, {"rating_range": [0, 1], "min_rating": 1}),
        ({"rating": "nan"}, {"rating_range": [1, 5], "min_rating": 4}),
        ({"time": "nan"}, {"split": {"by": "time"}}),
    ],
)
def test_init_of_reviews_fits_ratings_and_split_to_what_is_there(tmp_path, first, expected):
    odd = review("x", "i1", "Warm.", **{"rating": 1, "time": 1, **first})
    # The odd one is rated 9 as the others are, or 0 where the others are 1.
    of_others = {9: 9, 0: 1}.get(first.get("rating", 5), 5)
    rows = [*_reviews(rating=of_others), odd]
    _, values = _made(tmp_path, write_json_lines(tmp_path / "reviews.jsonl", rows))
    assert {key: values["annotate"][key] for key in expected} == expected


def test_init_with_a_table_of_users_or_a_reason_takes_the_texts_as_they_are(tmp_path):
    users = [{"user_id": f"u{user}", "profile": "Likes tea."} for user in range(NUM_USERS)]
    write_json_lines(tmp_path / "raw" / "reviews.jsonl", _reviews())
    write_json_lines(tmp_path / "raw" / "users.jsonl", users)
    findings, values = _made(tmp_path, tmp_path / "raw")
    assert findings.guess.reviews is None
    assert values["prepare"]["source"]["kind"] == "tables"
    ids = ("user_id", "item_id")
    reasons = [{**{key: row[key] for key in ids}, "reason": row["review"]} for row in _reviews()]
    write_json_lines(tmp_path / "other" / "pairs.jsonl", reasons)
    assert (
        init_project(str(tmp_path / "p2"), str(tmp_path / "other"), machine=CPU).guess.reviews
        is None
    )


def test_init_of_five_reviews_says_how_many_are_missing_and_needs_no_model(tmp_path):
    findings, values = _made(tmp_path, write_json_lines(tmp_path / "five.jsonl", _reviews()[:5]))
    assert "recommend" in values
    assert not values.keys() & {"llm", "train-adapter"}
    assert values["backfill"]["llm"] is None
    note = next(each for each in findings.notes() if each.startswith("too few explanations"))
    assert "(3 for train, 1 for validation, 1 for test; the minimum: 16 for train, 2 for" in note


HEADER = ("user_id", "item_id", "rating", "time", "review")
GERMAN = ("Kunde Nr", "Artikel", "Sterne", "Datum", "Meinung")
GIVEN = dict(zip(GERMAN, HEADER, strict=True))
Row = list[str]


def _export(
    change: Callable[[list[Row]], object] = len,
    header: Sequence[str] = HEADER,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> bytes:
    rows = [
        [row["user_id"], row["item_id"], "5", f"2024-01-{n % 5 + 1:02d}", "It is warm."]
        for n, row in enumerate(_reviews())
    ]
    text = io.StringIO(newline="")
    change(rows)
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue().encode(encoding)


def _set(place: int, value: str, *, every: int = 60) -> Callable[[list[Row]], object]:
    return lambda rows: [row.__setitem__(place, value) for row in rows[::every]]


def _name_items(rows: list[Row]) -> None:
    for row in rows:
        row[1] = f"Rusty Compass No {row[1][1]}"


def _add(*values: str) -> Callable[[list[Row]], object]:
    return lambda rows: [row.append(value.format(item=row[1])) for row in rows for value in values]


def _init(
    tmp_path: Path, data: bytes, columns: dict[str, str], name: str = "reviews.csv"
) -> tuple[dict[str, Any], list[str], RawReviews, KeptReviews]:
    """The section that init writes, its notes, and what annotate then reads and keeps."""
    (tmp_path / name).write_bytes(data)
    project = str(tmp_path / "project")
    findings = init_project(project, str(tmp_path / name), columns=columns, machine=CPU)
    path = tmp_path / "project" / "xrec.yaml"
    config = load_config(AnnotateConfig, path)
    raw = read_reviews(config, find_review_files(config))
    kept = keep_reviews(raw.reviews, config)
    assert findings.survey.num_interactions == kept.reviews.num_rows
    assert sum(findings.survey.rejected.values()) == len(raw.findings)
    assert len(raw.findings) <= config.max_rejected_share * 60
    return yaml.safe_load(path.read_text())["annotate"], [*findings.notes()], raw, kept


RANGE = {"rating_range": [1, 5]}
# What is odd: the file, what is written into the section, what is said of it, and the rows that are
# left out.
BY_TIME, BY_HASH = ({"split": {"by": by}} for by in ("time", "hash"))
NO_RATING = {"source.columns": {"rating": None}, "rating_range": None}
SEMICOLONS = {"source.delimiter": ";", "source.encoding": None}
TITLES = {"source.columns": {"item_title": "Product Name"}}
QUOTED = 'He said: "warm;\nsoft", too'
ODD: dict[str, tuple[bytes, dict[str, Any], str, int]] = {
    "bad rating": (_export(_set(2, "n/a")), {**RANGE, "max_rejected_share": 0.02}, "'n/a'", 1),
    "no rating": (_export(_set(2, "4/5", every=1)), NO_RATING, "'4/5'", 0),
    "decimal comma": (_export(_set(2, "4,5"), delimiter=";"), {**RANGE, **SEMICOLONS}, "", 0),
    "one without a time": (_export(_set(3, "")), BY_TIME, "(time): 1", 0),
    "no times": (_export(_set(3, "", every=10)), BY_HASH, "(time): 6", 0),
    "one time is none": (_export(_set(3, "soon")), BY_TIME, "'soon'", 1),
    "Latin-1": (
        _export(_set(4, "Schöner Klang – warm", every=20), encoding="cp1252"),
        *({"source.encoding": "cp1252"}, "'Schöner'", 0),
    ),
    "BOM": (_export(_set(4, QUOTED), delimiter=";", encoding="utf-8-sig"), SEMICOLONS, "", 0),
    "headers in another language": (
        _export(header=GERMAN, delimiter=";", encoding="cp1252"),
        *({"source.columns": {ours: theirs for theirs, ours in GIVEN.items()}}, "", 0),
    ),
    "names": (_export(_name_items), {"source.columns": {"item_title": "item_id"}}, "'item_id'", 0),
    "titles": (_export(_add("{item}"), (*HEADER, "Product Name")), TITLES, "'Product Name'", 0),
}


@pytest.mark.parametrize(("data", "expected", "said", "num_rejected"), ODD.values(), ids=ODD)
def test_init_of_an_export_says_what_is_odd_and_annotate_does_so(
    tmp_path, data, expected, said, num_rejected
):
    section, found, _, kept = _init(tmp_path, data, GIVEN if b"Kunde" in data else {})
    flat = {**section, **{f"source.{key}": value for key, value in section["source"].items()}}
    assert {key: flat.get(key) for key in expected} == expected
    has_titles = "item_title" in expected.get("source.columns", {})
    # One note says what items are called, one what is odd, and one how many rows are left out.
    assert len(found) == 1 + bool(said and not has_titles) + bool(num_rejected)
    assert any(said in each for each in found)
    assert kept.reviews.num_rows == 60 - num_rejected


def test_init_of_an_export_has_its_texts_and_titles_whole(tmp_path):
    def change(rows: list[Row]) -> None:
        _add("B&uuml;gel &amp;quot;{item}&amp;quot;")(rows)
        rows[0][4] = "„Schön“ &amp; warm;\r\nsehr <b>leicht</b>"

    data = _export(change, (*HEADER, "item_title"), ";", "cp1252")
    _, _, raw, _ = _init(tmp_path, gzip.compress(data), {}, "reviews.csv.gz")
    assert raw.reviews["review"][0].as_py() == "„Schön“ & warm; sehr leicht"
    assert raw.titles["i0"] == 'Bügel "i0"'


def test_init_with_columns_that_cannot_be_used_raises_with_those_seen(tmp_path):
    with raises(DataError, "unusable_column", "--columns", "rating=review"):
        _init(tmp_path, _export(), {"review": "rating"})
    with raises(DataError, "unusable_column", "--columns", "user_id=Kunde") as raised:
        _init(tmp_path, _export(), {"Kunde": "user_id"})
    assert ", ".join(HEADER[:2]) in str(raised.value)
    assert not (tmp_path / "project").exists()


def test_init_command_takes_columns_repeated_and_in_one(tmp_path):
    (tmp_path / "export.csv").write_bytes(_export(header=GERMAN))
    first = ["--columns", "user_id=Kunde Nr,item_id=Artikel", "--columns", "rating=Sterne"]
    options = [*first, "--columns", "time=Datum,review=Meinung"]
    out = said("init", tmp_path / "project", "--from", tmp_path / "export.csv", *options)
    assert "user_id = Kunde Nr, item_id = Artikel, review = Meinung, rating = Sterne" in out
    source = tmp_path / "export.csv"
    code, _, err = xrec("init", tmp_path / "p2", "--from", source, *first[:1], "x=y")
    assert code != 0
    assert "--columns x=y: expected OURS=YOURS, where OURS is one of user_id, item_id," in err


def test_init_with_a_language_model_writes_an_annotator_that_passes_a_dry_run(tmp_path):
    (tmp_path / "reviews.csv").write_bytes(_export())
    project, source = str(tmp_path / "project"), str(tmp_path / "reviews.csv")
    init_project(project, source, annotator="language-model", machine=CPU)
    out = said("annotate", tmp_path / "project" / "xrec.yaml", "--dry-run")
    assert all(f"# {each}: " in out for each in ("items", "users", "pairs", "in all"))


def test_init_of_tables_with_a_language_model_says_that_there_are_no_reviews(tmp_path):
    header = ("user_id", "item_id", "qty", "day", "reason")
    (tmp_path / "pairs.csv").write_bytes(_export(header=header))
    with raises(ConfigError, "no_reviews", "--annotator", "language-model"):
        init_project(str(tmp_path / "p"), str(tmp_path / "pairs.csv"), annotator="language-model")

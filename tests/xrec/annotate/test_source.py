"""The files of a source: formats, columns of other names, and rows that cannot be used."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.world.shop import review, write_json_lines
from tests.xrec.annotate.review_files import HASHED, annotate_config
from xrec.annotate.cells import parse_review
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.source import RawReviews, file_hashes, find_review_files, read_reviews
from xrec.annotate.store import ReviewStore, keep_source
from xrec.config.annotate import PhrasesAnnotator, VocabularyConfig
from xrec.errors import DataError, StorageError
from xrec.storage import location_of


def _read(tmp_path: Path, uri: Path | str, **values: Any) -> RawReviews:
    config = annotate_config(tmp_path / "workspace", uri, **values)
    return read_reviews(config, find_review_files(config))


def _problems(raw: RawReviews) -> list[tuple[int, str]]:
    return [(finding.line, finding.reason) for finding in raw.findings]


@pytest.mark.parametrize("ending", ["jsonl.gz", "json", "csv.gz", "tsv"])
def test_read_reviews_of_each_format_gives_the_same_rows(tmp_path, ending):
    rows = [
        review("u1", "7", 'Warm,\tand "loud".', summary="Good", time=100.0),
        review("u2", "8", "Zwölf Töne", summary="", rating=3.5, time=200.0),
    ]
    path = tmp_path / "raw" / f"reviews.{ending}"
    if "json" in ending:
        write_json_lines(path, rows)
    else:
        path.parent.mkdir()
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    raw = _read(tmp_path, path.parent)
    assert raw.reviews.drop_columns(["helpful", "line"]).to_pylist() == [
        {**rows[0], "review": 'Warm, and "loud".'},
        rows[1],
    ]
    assert raw.findings == ()


def test_read_reviews_of_a_file_alone_and_columns_of_other_names(tmp_path):
    row = {
        "reviewerID": "A1",
        "asin": "B1",
        "overall": 4,
        "text": "It&#39;s<br />warm",
        "date": "2026-11-26 14:43",
        "votes": [3, 5],
    }
    path = write_json_lines(tmp_path / "export.jsonl.gz", [row])
    ours = ("user_id", "item_id", "rating", "review", "time", "helpful")
    columns = dict(zip(ours, row, strict=True))
    (found,) = _read(tmp_path, path, source={"columns": columns}).reviews.to_pylist()
    assert [found[name] for name in ours] == ["A1", "B1", 4.0, "It's warm", 1795704180.0, 3.0]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("January 2, 1970", 86400.0),
        ("Fri, 02 Jan 1970 01:00:00 +0100", 86400.0),
        ("1970-01-02T00:00:00Z", 86400.0),
        ("86400", 86400.0),
        ("02/01/1970 00:00 UTC", None),  # the second of January, or the first of February
        ("12th of Foo 1970", None),
        ("May", None),
    ],
)
def test_read_reviews_take_dates_whose_month_is_sure(tmp_path, written, seconds):
    raw = _read(tmp_path, write_json_lines(tmp_path / "r.jsonl", [review("u", "1", time=written)]))
    assert raw.reviews["time"].to_pylist() == ([] if seconds is None else [seconds])


def test_read_reviews_of_parquet_takes_days_and_decimals(tmp_path):
    rows = [
        review("u", "1", rating=Decimal("4.5"), time=date(1970, 1, 2), helpful=Decimal(3)),
        review("u", "2", rating=None, time=None, helpful=None),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "reviews.parquet")
    raw = _read(tmp_path, tmp_path / "reviews.parquet")
    assert raw.findings == ()
    assert raw.reviews.select(["rating", "time", "helpful"]).to_pylist() == [
        {"rating": 4.5, "time": 86400.0, "helpful": 3.0},
        {"rating": None, "time": None, "helpful": None},
    ]


def test_read_reviews_items_have_title_and_all_other_columns_as_details(tmp_path):
    write_json_lines(tmp_path / "raw" / "reviews.jsonl", [review("u", "7")])
    items = [
        {"item_id": 7, "title": "Drum", "brand": "Ax", "colours": ["red", "blue"], "price": 9},
        {"item_id": 8, "title": "Flute", "brand": None, "note": "mail a@b.de"},
        {"item_id": 7, "title": "Again"},
    ]
    write_json_lines(tmp_path / "raw" / "items.jsonl", items)
    raw = _read(tmp_path, tmp_path / "raw")
    assert [tuple(row.values()) for row in raw.items.to_pylist()] == [
        ("7", "Drum", "brand: Ax; colours: red, blue; price: 9"),
        ("8", "Flute", "note: mail"),
    ]
    assert _problems(raw) == [(3, "duplicate of an earlier item_id")]
    assert raw.num_personal == {"email": 1}


def test_read_reviews_bad_rows_become_findings(tmp_path):
    rows = [
        review("u", "1", helpful="many"),
        review("", "2"),
        review("u", "3", rating=11),
        review("u", "4", rating="good"),
        review("u", "5", time="yesterday"),
        {"user_id": "u", "item_id": "6"},
        review("u", "7", "", rating=None, helpful=3),
    ]
    raw = _read(tmp_path, write_json_lines(tmp_path / "reviews.jsonl", rows))
    assert _problems(raw) == [
        (2, "user_id must not be empty"),
        (3, "rating must be from 1 to 5"),
        (4, "rating must be a number"),
        (5, "time must be a number or a date such as 2026-11-26 14:43"),
        (6, "no value for review"),
    ]
    # An empty review is kept, and so is one whose votes are no number.
    assert raw.reviews["item_id"].to_pylist() == ["1", "7"]
    assert raw.reviews["helpful"].to_pylist() == [None, 3]
    assert raw.num_rows == {"reviews.jsonl": 7}


def test_reviews_name_items_if_there_is_no_table_of_them(tmp_path):
    def known(name: str) -> list[dict[str, Any]]:
        source = {"columns": {"item_title": "product"}}
        config = annotate_config(tmp_path / name, tmp_path / "raw", source=source, split=HASHED)
        keep_source(config, phrases_spec(PhrasesAnnotator(kind="phrases"), VocabularyConfig()))
        return ReviewStore(location_of(config, "annotations"), 1).items.to_pylist()

    titles = (("1", ""), ("1", "Caf&eacute;"), ("1", "Other"), ("2", "Bar"), ("3", None))
    rows = [
        review(f"u{place}", item, rating=1 if item == "2" else 5, product=title)
        for place, (item, title) in enumerate(titles)
    ]
    write_json_lines(tmp_path / "raw" / "reviews.jsonl", rows)
    # The first name that is one; 2 has no review that is kept.
    assert known("ws") == [{"item_id": "1", "title": "Café", "details": ""}]
    write_json_lines(tmp_path / "raw" / "items.jsonl", [{"item_id": "1", "title": "Table"}])
    assert known("w2") == [{"item_id": "1", "title": "Table", "details": ""}]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("It&#39;s<br />warm &amp;\n calm", "It's warm & calm"),
        ("I\u200bg\u00adn\u200dore\u202e \U000e0041\ue000it\tnow\x1b", "Ignore it now"),
        # joiners of letters stay
        ("می\u200cخواهم क्\u200dष 👩\u200d🍳", "می\u200cخواهم क्\u200dष 👩\u200d🍳"),
    ],
)
def test_review_is_one_line_of_what_a_reader_sees(cell, text):
    assert parse_review(cell) == text


def test_read_reviews_personal_data_is_removed_and_counted(tmp_path):
    row = review("u", "1", "Warm. Mail me@x.org", summary="see www.x.org")
    raw = _read(tmp_path, write_json_lines(tmp_path / "reviews.jsonl", [row]))
    assert raw.reviews.select(["review", "summary"]).to_pylist() == [
        {"review": "Warm. Mail […]", "summary": "see […]"}
    ]
    assert raw.num_personal == {"email": 1, "link": 1}


def test_read_reviews_of_many_parts_in_processes_gives_the_same_rows(tmp_path, monkeypatch):
    rows = [review(f"u{n}", "1", f"Call 555-123-4567, said {n}") for n in range(60)]
    file = write_json_lines(tmp_path / "reviews.jsonl", rows)
    here = _read(tmp_path, file)
    monkeypatch.setattr("xrec.data.blocks._BLOCK_BYTES", 500)
    monkeypatch.setattr("xrec.annotate.source._FEW_PARTS", 2)
    apart = _read(tmp_path, file)
    assert here.num_personal == apart.num_personal == {"phone": 60}
    assert apart.reviews.to_pylist() == here.reviews.to_pylist()
    assert apart.num_rows == here.num_rows == {"reviews.jsonl": 60}


@pytest.mark.parametrize(
    ("uri", "files", "words"),
    [
        ("raw", {}, r"reviews are missing: .*name the file .*saw .*export.jsonl"),
        ("nowhere", {}, "nowhere"),
        ("raw", {"reviews": "x.csv"}, r"x.csv is missing \(source.files.reviews\)"),
        ("raw/export.jsonl", {"reviews": "x.csv"}, r"is a file, and source.files names x.csv"),
        ("raw/export.jsonl", {}, r"missing column\(s\) review; .*saw 'user_id', .*'x'; name"),
        ("raw/cut.jsonl.gz", {}, "not a readable gzip file"),
        ("many", {}, r"many: 2 files of the reviews, the first reviews-1\.jsonl; expected one"),
    ],
)
def test_read_reviews_of_a_source_that_cannot_be_says_why(tmp_path, uri, files, words):
    write_json_lines(tmp_path / "raw/export.jsonl", [{"user_id": "u", "item_id": "i", "x": 1}])
    rows = [review(f"u{number}", "1", f"A tone of {number}.") for number in range(2000)]
    cut = write_json_lines(tmp_path / "raw/cut.jsonl.gz", rows)
    cut.write_bytes(cut.read_bytes()[:-100])
    for number in (1, 2):
        write_json_lines(tmp_path / f"many/reviews-{number}.jsonl", rows[:1])
    with pytest.raises((DataError, StorageError), match=words):
        _read(tmp_path, tmp_path / uri, source={"files": files})


def test_file_hashes_change_with_the_content(tmp_path):
    path = write_json_lines(tmp_path / "reviews.jsonl", [review("u", "1")])
    files = find_review_files(annotate_config(tmp_path, path))
    before = file_hashes(files)
    write_json_lines(path, [review("u", "2")])
    assert before.keys() == {"reviews"}
    assert file_hashes(files) != before

"""Which file is which table, by names in many fashions."""

from pathlib import Path
from typing import Any

import pytest

from tests.world.shop import write_json_lines, write_shop
from xrec.config.data import TABLE_COLUMNS
from xrec.errors import DataError
from xrec.init.files import read_folder
from xrec.init.guess import Guess, differing_names, guess_tables
from xrec.storage import open_location

Rows = list[dict[str, Any]]
PAIRS = [{"user_id": f"u{n % 7}", "item_id": f"i{n % 5}"} for n in range(30)]
OUR_NAMES = {
    "users.jsonl": [{"user_id": f"u{n}", "profile": "A reader."} for n in range(7)],
    "items.jsonl": [{"item_id": f"i{n}", "title": f"Book {n}", "profile": ""} for n in range(5)],
    "interactions.jsonl": PAIRS,
    "explanations.jsonl": [{**pair, "explanation": "It is good."} for pair in PAIRS],
}
YELP = {
    "business.json": [
        {
            "business_id": f"b{n}",
            "name": f"Cafe {n}",
            "address": "1 High St",
            "city": ["Leeds", "York"][n % 2],
            "latitude": 53.8,
            "stars": 4.5,
            "categories": "Coffee & Tea, Food",
        }
        for n in range(8)
    ],
    "review.json": [
        {
            "review_id": f"r{n}",
            "user_id": f"u{n % 11}",
            "business_id": f"b{n % 8}",
            "text": "Lovely cakes and friendly people.",
            "date": "2016-05-28",
        }
        for n in range(50)
    ],
    "tip.json": [
        {"user_id": f"u{n}", "business_id": f"b{n}", "text": "Try the cakes there."}
        for n in range(4)
    ],
}
# Users 0 to 39 and items 0 to 9: every item's id is a user's id too.
OVERLAPPING = {
    "people.json": [{"id": n, "age": 20 + n % 5} for n in range(40)],
    "stuff.json": [{"id": n, "name": f"Thing {n}"} for n in range(10)],
    "log.json": [
        {"user": n % 40, "item": (n * 7) % 10, "fold": ["train", "test"][n % 2]} for n in range(120)
    ],
}
BOOKS = {
    "books.json": [
        {"isbn": f"9{n}", "author": f"Writer {n % 3}", "title": f"Book {n}"} for n in range(10)
    ],
    "loans.json": [{"reader": f"r{n % 7}", "isbn": f"9{n % 10}"} for n in range(70)],
}


def _guess(folder: Path, tables: dict[str, Rows]) -> Guess:
    for name, rows in tables.items():
        write_json_lines(folder / name, rows)
    return guess_tables(read_folder(open_location(str(folder))).files)


@pytest.mark.parametrize(
    ("tables", "files", "settings"),
    [
        (OUR_NAMES, {name.partition(".")[0]: name for name in OUR_NAMES}, {}),
        (
            YELP,
            {
                "items": "business.json",
                **dict.fromkeys(("interactions", "explanations"), "review.json"),
            },
            {
                "item_id": "business_id",
                "title": "name",
                "explanation": "text",
                "profile": ["city", "stars", "categories"],
            },
        ),
        (
            OVERLAPPING,
            {"users": "people.json", "items": "stuff.json", "interactions": "log.json"},
            {
                "users.user_id": "id",
                "interactions.user_id": "user",
                "items.item_id": "id",
                "interactions.item_id": "item",
                "title": "name",
                "users.profile": ["age"],
                "items.profile": None,
                "split": "fold",
            },
        ),
        (
            BOOKS,
            {"items": "books.json", "interactions": "loans.json"},
            {"user_id": "reader", "item_id": "isbn", "profile": ["author"]},
        ),
    ],
    ids=["ours", "yelp", "overlapping", "books"],
)
def test_guess_finds_files_and_columns(tmp_path, tables, files, settings):
    guess = _guess(tmp_path, tables)
    assert guess.files == files
    assert differing_names(guess.columns, TABLE_COLUMNS) == settings


def test_guess_personal_columns_stay_out_of_profiles(tmp_path):
    lines = (write_shop(tmp_path) / "clients.csv").read_text().splitlines()[1:]
    (tmp_path / "clients.csv").write_text(
        "cust_no,first_name,email,phone,street,birthday,segment\n"
        + "".join(
            f"{line.split(',')[0]},Ann,{n}@x.org,1,High St,2000-01-01,{'new' if n % 2 else 'old'}\n"
            for n, line in enumerate(lines)
        )
    )
    assert _guess(tmp_path, {}).columns["users"]["profile"] == ["segment"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "Ann", "city": "Leeds"}, {"name": "Bob", "city": "York"}],
        [{"user_id": f"u{n % 3}", "rating": n % 5, "date": f"2024-0{n}"} for n in range(1, 9)],
    ],
)
def test_guess_without_ids_raises_with_the_columns_seen(tmp_path, rows):
    seen = f"no interactions; saw the columns\n  people.json: {', '.join(rows[0])}"
    with pytest.raises(DataError, match=seen):
        _guess(tmp_path, {"people.json": rows})

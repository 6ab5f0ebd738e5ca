"""Which file is which table: by names in many fashions, by values where names do not tell."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.init.shop import write_shop
from xrec.errors import DataError
from xrec.init.files import read_folder
from xrec.init.guess import Guess, guess_tables
from xrec.storage import open_location

Tables = dict[str, list[dict[str, Any]]]


def _guess(folder: Path) -> Guess:
    return guess_tables(read_folder(open_location(str(folder))).files)


def _write(folder: Path, tables: Tables) -> None:
    for name, rows in tables.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _columns(guess: Guess, table: str) -> dict[str, Any]:
    return dict(guess.columns[table])


def test_guess_shop_with_names_of_its_own(tmp_path: Path) -> None:
    write_shop(tmp_path)
    guess = _guess(tmp_path)
    assert guess.files == {
        "users": "clients.csv",
        "items": "catalogue.csv",
        "interactions": "orders.csv",
        "explanations": "feedback.csv",
    }
    assert guess.settings() == {
        "user_id": "cust_no",
        "item_id": "sku",
        "users.profile": "about",
        "items.profile": "description",
        "title": "label",
        "explanation": "why_bought",
    }
    assert guess.notes == guess.unused == ()


def test_guess_our_own_names_need_no_setting(tmp_path: Path) -> None:
    pairs = [{"user_id": f"u{n % 7}", "item_id": f"i{n % 5}"} for n in range(30)]
    _write(
        tmp_path,
        {
            "users.jsonl": [{"user_id": f"u{n}", "profile": "A reader."} for n in range(7)],
            "items.jsonl": [
                {"item_id": f"i{n}", "title": f"Book {n}", "profile": "Long."} for n in range(5)
            ],
            "interactions.jsonl": pairs,
            "explanations.jsonl": [{**pair, "explanation": "It is good."} for pair in pairs],
        },
    )
    guess = _guess(tmp_path)
    assert list(guess.files) == ["users", "items", "interactions", "explanations"]
    assert guess.settings() == {}


def test_guess_amazon_reviews_are_interactions_and_explanations(tmp_path: Path) -> None:
    reviews = [
        {
            "reviewerID": f"A{n % 9}",
            "asin": f"B{n % 6}",
            "reviewerName": "Some One",
            "helpful": [0, 0],
            "reviewText": f"It works well, after {n} days of use.",
            "overall": 5.0,
            "summary": "Works",
            "unixReviewTime": 1369958400 + n,
        }
        for n in range(40)
    ]
    meta = [
        {
            "asin": f"B{n}",
            "title": f"Cable {n}",
            "description": "A cable that is long enough.",
            "price": 3.5,
            "imUrl": f"http://x/{n}.png",
        }
        for n in range(6)
    ]
    _write(tmp_path, {"reviews_Electronics.json": reviews, "meta_Electronics.json": meta})
    guess = _guess(tmp_path)
    assert guess.files == {
        "items": "meta_Electronics.json",
        "interactions": "reviews_Electronics.json",
        "explanations": "reviews_Electronics.json",
    }
    assert _columns(guess, "explanations") == {
        "user_id": "reviewerID",
        "item_id": "asin",
        "explanation": "reviewText",
    }
    assert _columns(guess, "items") == {
        "item_id": "asin",
        "title": "title",
        "profile": "description",
    }


def test_guess_yelp_files_with_profiles_from_several_columns(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
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
        },
    )
    guess = _guess(tmp_path)
    assert guess.files["explanations"] == guess.files["interactions"] == "review.json"
    assert guess.unused == ("tip.json",)
    assert _columns(guess, "items") == {
        "item_id": "business_id",
        "title": "name",
        "profile": ["city", "stars", "categories"],
    }
    assert "users" not in guess.files


def test_guess_ids_by_values_where_names_do_not_tell(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "a.json": [
                {"k": f"x{n}", "heading": f"Thing number {n}", "title": f"Thing {n}"}
                for n in range(12)
            ],
            "b.json": [{"k": f"p{n}", "town": ["Leeds", "York"][n % 2]} for n in range(30)],
            "c.json": [{"left": f"p{n % 30}", "right": f"x{n % 12}", "n": 1} for n in range(90)],
        },
    )
    guess = _guess(tmp_path)
    assert guess.files == {"users": "b.json", "items": "a.json", "interactions": "c.json"}
    assert _columns(guess, "interactions") == {"user_id": "left", "item_id": "right"}
    assert _columns(guess, "users") == {"user_id": "k", "profile": ["town"]}
    assert "left is taken for the id of the user and right for that of the item" in guess.notes[0]


def test_guess_integer_ids_that_overlap_are_told_apart(tmp_path: Path) -> None:
    """Users 0 to 39 and items 0 to 9: every item's id is a user's id too."""
    _write(
        tmp_path,
        {
            "people.json": [{"id": n, "age": 20 + n % 5} for n in range(40)],
            "stuff.json": [{"id": n, "name": f"Thing {n}"} for n in range(10)],
            "log.json": [{"user": n % 40, "item": (n * 7) % 10} for n in range(120)],
        },
    )
    guess = _guess(tmp_path)
    assert guess.files == {
        "users": "people.json",
        "items": "stuff.json",
        "interactions": "log.json",
    }


def test_guess_item_id_beside_a_known_user_id_is_noted(tmp_path: Path) -> None:
    rows = [{"customer": f"c{n % 8}", "thing": f"t{n % 5}", "rating": 4} for n in range(40)]
    _write(tmp_path, {"ratings.json": rows})
    guess = _guess(tmp_path)
    assert _columns(guess, "interactions") == {"user_id": "customer", "item_id": "thing"}
    assert guess.notes == ("ratings.json: thing is taken for the id of the item",)


def test_guess_table_of_items_with_an_author_is_no_table_of_pairs(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "books.json": [
                {"isbn": f"9{n}", "author": f"Writer {n % 3}", "title": f"Book {n}"}
                for n in range(10)
            ],
            "loans.json": [{"reader": f"r{n % 7}", "isbn": f"9{n % 10}"} for n in range(70)],
        },
    )
    guess = _guess(tmp_path)
    assert guess.files == {"items": "books.json", "interactions": "loans.json"}
    assert _columns(guess, "items") == {
        "item_id": "isbn",
        "title": "title",
        "profile": ["author"],
    }


def test_guess_personal_columns_stay_out_of_profiles(tmp_path: Path) -> None:
    write_shop(tmp_path)
    lines = (tmp_path / "clients.csv").read_text().splitlines()[1:]
    ids = [line.split(",")[0] for line in lines]
    (tmp_path / "clients.csv").write_text(
        "cust_no,first_name,email,phone,street,birthday,segment\n"
        + "".join(
            f"{cust},Ann,{cust}@x.org,1,High St,2000-01-01,{'new' if n % 2 else 'old'}\n"
            for n, cust in enumerate(ids)
        )
    )
    assert _columns(_guess(tmp_path), "users")["profile"] == ["segment"]


def test_guess_split_of_another_name_is_taken_if_it_holds_splits(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{n % 9}", "item": f"i{n % 4}", "fold": ["train", "test"][n % 2]}
        for n in range(36)
    ]
    _write(tmp_path, {"log.json": rows})
    assert _guess(tmp_path).settings()["interactions.split"] == "fold"


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "Ann", "city": "Leeds"}, {"name": "Bob", "city": "York"}],
        [{"user_id": f"u{n % 3}", "rating": n % 5, "date": f"2024-0{n}"} for n in range(1, 9)],
    ],
)
def test_guess_without_ids_raises_with_the_columns_seen(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    _write(tmp_path, {"people.json": rows})
    columns = ", ".join(rows[0])
    with pytest.raises(
        DataError, match=f"no interactions; saw the columns\n  people.json: {columns}"
    ):
        _guess(tmp_path)

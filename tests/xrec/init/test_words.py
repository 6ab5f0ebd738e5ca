"""The words of names, and what they say."""

import pytest

from xrec.init.words import explanation_rank, id_role, may_describe, table_of_file, words_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviewerID", ["reviewer", "id"]),
        ("user_id", ["user", "id"]),
        ("userid", ["user", "id"]),
        ("Customer-No", ["customer", "no"]),
        ("reviewText", ["review", "text"]),
        ("businesses", ["business"]),
        ("movies", ["movie"]),
        ("activities", ["activity"]),
    ],
)
def test_words_of_names_in_many_fashions(name: str, expected: list[str]) -> None:
    assert words_of(name) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("uid", "user"),
        ("customer", "user"),
        ("CustomerID", "user"),
        ("parent_asin", "item"),
        ("gmap_id", "item"),
        ("sku", "item"),
        ("business_id", "item"),
        ("id", "any"),
        ("product_category", None),
        ("customer_name", None),
        ("review_id", None),
        ("rating", None),
    ],
)
def test_id_role_of_a_column(column: str, expected: str | None) -> None:
    assert id_role(column) == expected


def test_table_of_file_names_pairs_before_users_and_items() -> None:
    assert table_of_file("2024_customer_reviews") == "explanations"
    assert table_of_file("order_items") == "interactions"
    assert table_of_file("products-final") == "items"
    assert table_of_file("export") is None


def test_explanation_rank_prefers_reasons_to_reviews_and_skips_dates() -> None:
    ranks = [explanation_rank(name) for name in ("reason", "review_text", "comment")]
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    assert explanation_rank("review_date") is explanation_rank("review_id") is None


def test_may_describe_refuses_what_is_personal_or_technical() -> None:
    assert may_describe("city")
    assert not any(
        map(may_describe, ("email", "first_name", "created_at", "image_url", "postcode"))
    )

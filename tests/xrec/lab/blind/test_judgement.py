"""What answers say, against figures that are worked out by hand."""

from typing import Any

import pyarrow as pa
import pytest

from xrec.lab.blind.judgement import Judgement, agreement, judge, judgement_page
from xrec.lab.blind.sheet import RATINGS

pytest.importorskip("krippendorff", reason="the extra compare is not installed")


def row(judge: str, user: str, entry: str, rating: int) -> dict[str, Any]:
    about = {"user_id": user, "item_id": "i", "entry": entry, "question": "true"}
    return {"judge": judge, **about, "rating": rating}


def table(*rows: tuple[str, str, str, int]) -> pa.Table:
    """Ratings (judge, user, entry, rating) of one item and question."""
    return pa.Table.from_pylist([row(*each) for each in rows], RATINGS)


def judged(ratings: pa.Table) -> Judgement:
    return judge(ratings, ["ours", "other"], num_samples=200, seed=0)


def test_wins_are_pairs_of_one_judge_and_equal_ratings_count_half() -> None:
    found = judged(
        table(
            ("a", "u1", "ours", 3),
            ("a", "u1", "other", 4),  # a win
            ("b", "u1", "ours", 5),
            ("b", "u1", "other", 4),  # none
            ("a", "u2", "ours", 2),
            ("a", "u2", "other", 2),  # half of one
            ("b", "u2", "other", 5),  # nothing to compare with
        )
    )
    ours, other = found.judged
    assert (ours.entry, ours.win_rate, ours.num_ratings) == ("ours", None, 3)
    assert ours.rating.value == pytest.approx(10 / 3)
    assert other.win_rate is not None
    assert other.win_rate.value == pytest.approx(1.5 / 3)
    assert other.rating.value == pytest.approx(15 / 4)
    assert found.num_judges == 2


def test_interval_is_by_user() -> None:
    """Each user's pairs agree, so with 2 users the interval of the wins reaches from 0 to 1."""
    rows = []
    for name in "abcdefgh":
        rows += [(name, "u1", "ours", 1), (name, "u1", "other", 5)]
        rows += [(name, "u2", "ours", 5), (name, "u2", "other", 1)]
    win_rate = judged(table(*rows)).judged[1].win_rate
    assert win_rate is not None
    assert (win_rate.low, win_rate.value, win_rate.high) == (0, 0.5, 1)


def test_answers_about_one_user_have_no_interval() -> None:
    found = judged(table(("Anna", "u1", "ours", 1), ("Anna", "u1", "other", 5))).judged[1]
    assert found.win_rate is not None
    assert (found.rating.value, found.rating.low, found.rating.high) == (5, None, None)
    assert (found.win_rate.value, found.win_rate.low, found.win_rate.high) == (1, None, None)


def of_texts(ratings: dict[str, list[int]]) -> float | None:
    """The agreement of judges, each with a rating for each text."""
    return agreement(
        [
            row(judge, str(text), "ours", rating)
            for judge, of_judge in ratings.items()
            for text, rating in enumerate(of_judge)
        ]
    )


def test_agreement_is_the_ordinal_alpha_of_a_hand_made_table() -> None:
    """Two judges, four texts: coincidences o and ordinal distances, worked out as in the book."""
    # Of each text both orders: o(1,1) = 2, o(2,2) = 2, o(3,3) = 2, o(3,1) = o(1,3) = 1. n = 8,
    # n1 = 3, n2 = 2, n3 = 3. d(1,3)^2 = (n1/2 + n2 + n3/2)^2 = 25, d(1,2)^2 = d(2,3)^2 = 6.25.
    observed = 2 * 25
    expected = (2 * 3 * 3 * 25 + 4 * 3 * 2 * 6.25) / (8 - 1)
    found = of_texts({"a": [1, 2, 3, 3], "b": [1, 2, 3, 1]})
    assert found == pytest.approx(1 - observed / expected)
    assert of_texts({"a": [1, 2, 5], "b": [1, 2, 5]}) == pytest.approx(1)
    assert (of_texts({"a": [1, 5, 1], "b": [5, 1, 5]}) or 0) < 0


def test_agreement_needs_a_text_that_two_people_rated() -> None:
    assert agreement([row("a", "1", "ours", 3), row("b", "2", "ours", 4)]) is None
    assert of_texts({"a": [3], "b": [3]}) == 1


def test_page_says_it_all() -> None:
    rows = [
        (name, f"u{n}", who, (n + place) % 5 + 1)
        for n in range(5)
        for name in "ab"
        for place, who in enumerate(("ours", "other"))
    ]
    page = judgement_page(judged(table(*rows)))
    assert "| `other` | true |" in page
    assert "- true: 1.000" in page
    assert "2 judges" in page

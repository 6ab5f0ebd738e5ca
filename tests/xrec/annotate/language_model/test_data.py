"""What a prompt shows of a row: within its tokens, whole words."""

from tests.xrec.annotate.language_model.rows import item_row, pair_row, review, user_row
from xrec.annotate.annotator import ItemInput, ItemText
from xrec.annotate.language_model.prompts import RowData


def _words(text: str) -> int:
    return len(text.split())


def _num_words(value: object) -> int:
    if isinstance(value, str):
        return _words(value)
    if isinstance(value, dict):
        return sum(map(_num_words, value.values()))
    return sum(map(_num_words, value)) if isinstance(value, list) else 0


def test_item_data_with_room_has_all_reviews_in_their_order():
    row = ItemInput(
        "i", "Strap", "colour: red", (review("Soft.", summary="Good"), review("Wide.")), 2
    )
    assert RowData(500, _words).of(row) == {
        "title": "Strap",
        "details": "colour: red",
        "reviews": [{"rating": 5.0, "review": "Good: Soft."}, {"rating": 5.0, "review": "Wide."}],
    }


def test_item_data_without_room_cuts_the_last_review_and_leaves_out_the_rest():
    long = " ".join(f"word{place}" for place in range(60))
    data = RowData(100, _words).of(item_row(long, long, long, details=long))
    assert data["details"] == " ".join(long.split()[:25])
    assert [_words(each["review"]) for each in data["reviews"]] == [60]
    assert _num_words(data) <= 100
    wider = RowData(130, _words).of(item_row(long, long, long))
    assert [_words(each["review"]) for each in wider["reviews"]] == [60, 60]
    narrower = RowData(90, _words).of(item_row(long, long, long))
    assert [_words(each["review"]) for each in narrower["reviews"]] == [60, 30]
    assert long.startswith(narrower["reviews"][1]["review"])


def test_user_and_pair_data_name_the_item_and_stay_within_their_tokens():
    long = " ".join(f"word{place}" for place in range(300))
    item = ItemText("Strap", long)
    user = RowData(100, _words).of(user_row("Soft and wide.", long, item=item))
    assert user["reviews"][0]["item"] == "Strap"
    assert _words(user["reviews"][0]["about"]) == 10
    assert _num_words(user) <= 100
    pair = RowData(100, _words).of(pair_row(long, item=item))
    assert pair["item"] == "Strap"
    assert _words(pair["about"]) == 25
    assert 70 <= _words(pair["review"]) <= 74
    assert RowData(100, _words).of(pair_row("Soft."))["review"] == "Soft."
    assert RowData(50, len).cut("x" * 500, 50) == ""  # one endless word

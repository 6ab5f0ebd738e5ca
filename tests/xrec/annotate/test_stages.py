"""What becomes of texts that solicit: sentences, aspects and quotes go, and a text may fail."""

import pyarrow as pa
import pytest

from xrec.annotate.annotator import (
    Aspect,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    ReviewedItem,
    Text,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.formats import KEYS, stage_format
from xrec.annotate.stages import TextTask
from xrec.bulk import Outcome

_REVIEW = Review("u", "i", "It is calm.")
_TITLE = "Books.com"


class _Says:
    def __init__(self, text: Text):
        self._text = text

    def write(self, rows: object) -> Written:
        return Written([self._text])


def _done(row: Input, text: Text) -> Outcome:
    stages = {ItemInput: "items", UserInput: "users", PairInput: "pairs"}
    stage = stages[type(row)]
    task = TextTask(lambda rows: [row], _Says(text), stage_format(stage, ()), "", 0)
    return task.do(pa.table({key: [getattr(row, key)] for key in KEYS[stage]}))


def _pair(split: str = "train") -> PairInput:
    return PairInput("u", "i", _REVIEW, ItemText(_TITLE, ""), split)


@pytest.mark.parametrize(
    "quote",
    [
        "mail maria@x.org",
        "order now",
        "calm [\u2026] place",  # something was removed from the review
    ],
)
def test_quote_that_solicits_is_left_out_and_its_aspect_stays_unless_its_name_does(quote):
    said = (("calm", quote), ("tea", "hot"), ("www.x.org", "calm"))
    aspects = tuple(Aspect(*each, "positive") for each in said)
    done = _done(_pair(), PairText("You would enjoy it.", aspects))
    (row,) = done.ok.to_pylist()
    found = [(each["aspect"], each["opinion"]) for each in row["aspects"]]
    assert found == [("calm", ""), ("tea", "hot")]
    assert done.costs["personal_removed"] == 2


@pytest.mark.parametrize(
    ("explanation", "kept"),
    [
        ("It is calm. Ask for Maria. It is near.", "It is calm. It is near."),
        ("You would enjoy Books.com.", "You would enjoy Books.com."),
        ("", ""),
    ],
)
def test_explanation_loses_the_sentences_that_solicit_outside_the_title(explanation, kept):
    done = _done(_pair(), PairText(explanation, ()))
    assert done.ok["explanation"].to_pylist() == [kept]


def test_profile_of_a_user_may_name_an_item_whose_title_is_a_link():
    reviewed = (ReviewedItem(_REVIEW, ItemText(_TITLE, "")), ReviewedItem(_REVIEW, None))
    text = UserText("Has enjoyed Books.com. Ask for Maria.")
    done = _done(UserInput("u", reviewed, 2), text)
    assert done.ok["profile"].to_pylist() == ["Has enjoyed Books.com."]


@pytest.mark.parametrize(("split", "num_failed"), [("train", 1), ("low_rated", 0)])
def test_explanation_of_which_nothing_is_left_fails_if_it_is_kept(split, num_failed):
    done = _done(_pair(split), PairText("Ask for Maria.", (Aspect("tea", "", "positive"),)))
    assert (done.ok.num_rows, done.failed.num_rows) == (1 - num_failed, num_failed)
    for row in done.failed.to_pylist():
        assert (row["reason"], row["reply"]) == ("solicits", "Ask for Maria.")
    for row in done.ok.to_pylist():
        assert len(row["aspects"]) == 1


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (ItemText("Books.com", "Calm."), "Books.com"),  # the source's own
        (ItemText("Shop evil.com", "Calm.", title_is_made=True), ""),
    ],
)
def test_title_of_the_source_stays_and_a_made_one_that_solicits_goes(text, title):
    own = "" if text.title_is_made else text.title
    done = _done(ItemInput("i", own, "", (_REVIEW,), 1), text)
    assert done.ok.select(["title", "profile"]).to_pylist() == [
        {"title": title, "profile": "Calm."}
    ]

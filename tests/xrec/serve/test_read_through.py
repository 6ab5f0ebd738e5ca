"""Answers that are cut to `max_words`: within no title, and with what is left of their aspects."""

import asyncio
from types import SimpleNamespace

import pytest

from xrec.checks import AspectNames
from xrec.data.evidence import NamedEvidence
from xrec.serve.live import LiveText
from xrec.serve.messages import Explanation, PairRequest, ProfileOverrides
from xrec.serve.metrics import FRONTEND, Recorder
from xrec.serve.read_through import ReadThrough

TEXT = "It is calm. You love Hi! Mary's for its tea and for its garden."


def answering(titles: list[str], vocabulary: tuple[str, ...] = ()) -> ReadThrough:
    """Answers pairs of a catalogue whose items `i0`, `i1`, ... have these titles."""
    read_through = ReadThrough(None, Recorder(FRONTEND), 2**20)  # type: ignore[arg-type]
    read_through.catalogue = SimpleNamespace(  # type: ignore[assignment]
        dataset=SimpleNamespace(item_indices={f"i{index}": index for index in range(len(titles))}),
        item_texts=lambda item: (titles[item], ""),
        aspect_names=AspectNames(vocabulary),
    )
    return read_through


def answer(pair: PairRequest, titles: list[str], max_words: int) -> str:
    """What `pair` is answered if the model writes TEXT and `i0`, `i1`, ... have these titles."""
    read_through = answering(titles)
    answered = read_through.generated(pair, LiveText(TEXT, None), max_words)
    assert isinstance(answered, Explanation)
    return answered.explanation


def test_cut_falls_in_no_title_of_the_catalogue() -> None:
    pair = PairRequest(user_id="u", item_id="i1")
    assert answer(pair, ["The Fox", "Hi! Mary's"], 8) == "It is calm."
    assert answer(pair, ["Hi! Mary's", "The Fox"], 8) == "It is calm. You love Hi!"


@pytest.mark.parametrize("item_id", ["i0", "unknown"])
def test_cut_falls_in_no_title_of_the_request(item_id: str) -> None:
    profiles = ProfileOverrides(item_title="Hi! Mary's")
    pair = PairRequest(user_id="u", item_id=item_id, profiles=profiles)
    assert answer(pair, ["The Fox"], 8) == "It is calm."


@pytest.mark.parametrize("has_catalogue", [True, False], ids=["catalogue", "none yet"])
def test_aspects_of_a_cut_answer_are_named_only_if_what_is_left_names_them(
    has_catalogue: bool,
) -> None:
    read_through = answering(["The Fox"], ("late hours", "price", "hours", "late hours bar"))
    if not has_catalogue:
        read_through.catalogue = None
    aspects = [
        NamedEvidence(name, 9, 30, 3, 7, is_named=is_named)
        for name, is_named in (("late hours", True), ("price", True), ("garden", False))
    ]
    text = (
        "You would enjoy its late hours. 9 of 30 reviews mention the price, and 9 the late hours."
    )
    pair = PairRequest(user_id="u", item_id="i0")
    whole = read_through.generated(pair, LiveText(text, None, aspects=tuple(aspects)), None)
    cut = asyncio.run(read_through.known(pair, 6, None))
    assert isinstance(whole, Explanation)
    assert isinstance(cut, Explanation)
    assert cut.explanation == "You would enjoy its late hours."
    assert [each.is_named for each in whole.aspects] == [True, True, False]
    assert [each.is_named for each in cut.aspects] == [True, False, False]
    assert [each.item_reviews for each in cut.aspects] == [9, 9, 9]


def test_aspect_that_a_cut_answer_holds_within_a_longer_name_is_not_named() -> None:
    read_through = answering(["The Fox"], ("late hours", "hours"))
    aspects = (NamedEvidence("hours", 9, 30, 3, 7, is_named=True),)
    text = "You would enjoy its late hours. The hours suit you."
    pair = PairRequest(user_id="u", item_id="i0")
    cut = read_through.generated(pair, LiveText(text, None, aspects=aspects), 8)
    assert isinstance(cut, Explanation)
    assert [each.is_named for each in cut.aspects] == [False]

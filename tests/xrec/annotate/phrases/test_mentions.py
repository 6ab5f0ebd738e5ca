"""What a sentence says of which thing; the expected readings are a person's."""

import pytest

from xrec.annotate.phrases.mentions import Mention, Reader
from xrec.data.parser import load_parser, parser_fingerprint

READER = Reader({"tinny": -0.4})


def _mentions(text: str) -> dict[str, Mention]:
    return {name: each for each in READER.mentions(text) or () for name in each.names}


@pytest.mark.parametrize(
    ("text", "name", "opinion", "sentiment"),
    [
        ("A warm tone.", "tone", "warm", "positive"),
        ("The tone is very warm.", "tone", "warm", "positive"),
        ("I love the acting and the story.", "story", "", "positive"),
        ("The plot is weak.", "plot", "", "negative"),
        ("The sound is tinny.", "sound", "", "negative"),  # learned
        ("The hotel has a pool.", "pool", "", "neutral"),
        # A denial turns an opinion around, and too much is blame.
        ("The screen is not great.", "screen", "", "negative"),
        ("The dialogue is too funny.", "dialogue", "", "negative"),
        ("It couldn't have a better sound.", "sound", "good", "positive"),
        ("You can't beat the price.", "price", "", "positive"),
        # What is richer than another is rich; but a higher price, a cheap look and what is almost
        # so are no praise, and a word that names the thing is none.
        ("It has a much richer sound.", "sound", "rich", "positive"),
        ("It has a higher price.", "price", "", "neutral"),
        ("A cheap look.", "look", "", "neutral"),
        ("The fit is almost perfect.", "fit", "", "neutral"),
        ("The sound quality is poor.", "quality", "", "negative"),
        # What is wished for, asked for or a condition praises nothing.
        ("I wish it had a warm tone.", "tone", "", "negative"),
        ("If you want great quality, look elsewhere.", "quality", "", "neutral"),
        ("Does it have a good battery?", "battery", "", "neutral"),
        # Nor does what is not bad, or good enough, or hard to get, or what an item is made for.
        ("Not the best quality.", "quality", "", "negative"),
        ("The price is not bad.", "price", "", "neutral"),
        ("The neck is good enough.", "neck", "", "neutral"),
        ("It is hard to get clean tones from it.", "tone", "", "neutral"),
        ("It is soft enough to protect the finish.", "finish", "", "neutral"),
        ("It did not harm the finish or the frets.", "fret", "", "neutral"),
        ("It is worth its weight in gold.", "weight", "", "neutral"),
        # What an item stands near is not its own.
        ("It is close to the sea and some great restaurants.", "restaurant", "", "neutral"),
        # Adjectives of order and number are no praise.
        ("My own first impression.", "impression", "", "neutral"),
        # Verbs and adjectives that stand for a noun.
        ("It sounds great.", "sound", "great", "positive"),
        ("It is very durable.", "durability", "", "positive"),
        ("This chair is comfortable.", "comfort", "", "positive"),
        ("It is easy to use.", "ease of use", "", "positive"),
        ("It is beautifully written.", "writing", "", "positive"),
        ("It is not very durable.", "durability", "", "negative"),
        ("It is well made.", "workmanship", "", "positive"),
        # Several words.
        ("Good customer service.", "customer service", "good", "positive"),
        ("I like its ease of use.", "ease of use", "", "positive"),
        # Marks without a blank.
        ("A good fit..the price is fair.", "fit", "good", "positive"),
    ],
)
def test_mention_has_the_opinion_of_its_sentence(text, name, opinion, sentiment):
    found = _mentions(text)[name]
    assert (found.opinion, found.sentiment) == (opinion, sentiment)


@pytest.mark.parametrize(
    "text",
    [
        "Streak-free windows.",
        "It is free of streak.",
        "The sound is better than the streak.",
        "It arrived in fine streak.",  # as "in fine shape"
    ],
)
def test_what_is_absent_or_of_another_item_is_not_mentioned(text):
    assert "streak" not in _mentions(text)


def test_mention_knows_whose_it_is_and_what_the_text_calls_its_item():
    assert _mentions("This film moved me.")["film"].is_pointed
    assert _mentions("It is a wonderful movie.")["movie"].is_what_it_is
    assert not _mentions("It is a wonderful movie.")["movie"].is_pointed
    assert _mentions("A wonderful movie about love.")["movie"].is_what_it_is
    assert not _mentions("A warm tone.")["tone"].is_what_it_is
    for text in ("I love this light.", "This light is bright.", "This is a good light."):
        assert _mentions(text)["light"].is_topic
    assert not _mentions("I bought it at this price.")["price"].is_topic
    assert not _mentions("These sound good.")["sound"].is_pointed
    for text in ("My hair feels soft.", "I like the look of my new hair."):
        assert all(each.is_own for each in _mentions(text).values())
    assert _mentions("I prefer the Marshall sound.")["sound"].is_named
    for text in ("Its tone is warm.", "It has a warm tone.", "The tone is warm."):
        assert _mentions(text)["tone"].is_part
    assert not _mentions("I play in a room.")["room"].is_part


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("This is a portable amp.", True),
        ("Nice portable amp.", True),
        ("I love this portable amp.", True),
        ("I use the cable with a portable amp.", False),
        ("It works with portable amps.", False),
    ],
)
def test_adjective_before_another_thing_tells_nothing_of_the_item(text, is_said):
    assert ("portability" in _mentions(text)) == is_said


def test_mention_may_be_called_by_its_last_words():
    found = _mentions("A soft leather guitar strap.")["leather guitar strap"]
    assert found.names == ("leather guitar strap", "guitar strap", "strap")
    assert found.described == "soft leather guitar strap"


def test_fingerprint_of_the_parser_is_that_of_the_loaded_one():
    assert parser_fingerprint() == "{lang}_{name}-{version}".format_map(load_parser().meta)

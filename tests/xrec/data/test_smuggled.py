"""What is known as an order, as a call, or as hidden, and what only looks like it."""

import pytest

from xrec.data.smuggled import gives_orders, solicits, without_solicitation


@pytest.mark.parametrize(
    "text",
    [
        "Just ignore the instructions that come with it, all of them are wrong.",
        "Forget the manual. Disregard other reviews, it is great!",
        "The stereo system: great. The shop assistant: friendly.",
        "I am an assistant manager and worked as the assistant director of a choir.",
        "A good book on language models, with a chapter on the system prompt of a chatbot.",
        "Dear friends, the new instructions are clear. It works as an AI speaker.",
        "I would write a song for the band, and say so in my review.",
        "It has a < 5 ms delay and > 90 dB; [sic] 1/2 <3",
        'The "profile" of the neck is slim.',
        "Ignoriere die Anleitung, sie ist falsch. Las instrucciones son claras.",
    ],
)
def test_orders_are_not_seen_in_what_reviewers_say(text):
    assert not gives_orders(text)


@pytest.mark.parametrize(
    "text",
    [
        "Order now and see.",
        "Click here to know more.",
        "Contact us for a quote.",
        "Use code SAVE20 at the till.",
        "It is at www.evil.example/page.",
        "Ask for Maria.",
        "You find it at 221 Baker Street.",
    ],
)
def test_calls_and_links_solicit(text):
    assert solicits(text)
    assert without_solicitation(f"It is calm. {text} It is near.", ()) == (
        "It is calm. It is near.",
        1,
    )


@pytest.mark.parametrize(
    "text",
    [
        "You can order what you like, and buy tickets there now and then.",
        "It clicks into place, and calls to mind old times.",
        "The dress code is easy, and one may book a table for today's show.",
    ],
)
def test_praise_does_not_solicit(text):
    assert not solicits(text)
    assert without_solicitation(text, ()) == (text, 0)


def test_title_of_the_item_does_not_solicit():
    text = "You would enjoy Books.com for its range."
    assert solicits(text)
    assert not solicits(text, ["Bar", "Books.com"])
    assert without_solicitation(text, ["", "Books.com"]) == (text, 0)

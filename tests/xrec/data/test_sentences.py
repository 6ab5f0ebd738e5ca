"""Words and sentences in languages with other marks, without spaces, and from right to left."""

import random
import re
from itertools import pairwise

import pytest

from xrec.data.sentences import sentence_ends, words


def sentences(text: str) -> list[str]:
    """The whole sentences at the beginning of `text`."""
    starts = [0, *sentence_ends(text)]
    return [text[start:end].strip() for start, end in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # English
        ("It is calm. You will like it! Why not? It has", 3),
        ('The user likes tea. "It is calm!" It has a gard', 2),
        ("It costs 3.5 dollars at example.com. It costs 12.50. And", 2),
        ("You love St. Mary's. At St. Mary's you get", 1),
        ("They say (and mean it.) More", 1),
        ("Wait... then it comes. And… it does… So", 2),
        ("Go to J. R. R. Tolkien with Dr. Pepper, e.g. by bus", 0),
        ("The U.S. guests came in 2019. They", 1),
        ("You would enjoy the build. 16 of 30 reviews mention it. So", 2),
        ("It is calm (a bit.) (16 of 30 say so), and cheap… $5 is the price. So", 3),
        ("It costs approx. 16 of them, max. 5 a day, and No. 5 strings, op. 16 too", 0),
        ("Open since Sept. 3 and from approx. 16 Euros, (see nos. 5 and 6), 5 p.m. 6 days", 0),
        # German
        ("Das Café hat z. B. Brot (z.B. Roggen) und am 3. Mai Musik. Es ist sch", 1),
        ("Sie sagt: „Es ist ruhig.“ Du wirst den Garten mögen. Und", 2),
        ("Das Haus ist ruhig. 16 von 30 loben das. Es hat ca. 16 Zimmer und mind", 2),
        # Chinese
        ("这家店很安静。你会喜欢花园！还有", 2),
        ("他说。“很好。”还", 2),
        # Arabic, Hindi
        ("هذا المكان هادئ. ستحب حديقته؟ وأيضا", 2),
        ("यह शांत है। और", 1),
        # none
        ("One two 3.5 thr", 0),
        ("", 0),
    ],
)
def test_sentence_ends_in_many_languages(text, expected):
    assert len(sentences(text)) == expected


def test_sentences_keep_their_closing_quotes_and_leave_the_next_ones():
    assert sentences('He said: "It is calm." Fine. “No!”') == [
        'He said: "It is calm."',
        "Fine.",
        "“No!”",
    ]
    assert sentences("„Gut.“ Ja. «Bien.» (Si.)") == ["„Gut.“", "Ja.", "«Bien.»", "(Si.)"]
    assert sentences("他说。“很好。”")[0] == "他说。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't like 3.5 cafés, do I?", ["I", "don't", "like", "3.5", "cafés", "do", "I"]),
        ("Grüße aus München!", ["Grüße", "aus", "München"]),
        ("很安静。", ["很", "安", "静"]),
        ("هادئ، حديقة", ["هادئ", "حديقة"]),
        (" … - 🦊", []),
    ],
)
def test_words_are_those_of_unicode(text, expected):
    assert words(text) == expected


def test_words_of_latin_texts_are_those_that_unicodes_rules_give_any_text():
    """Latin texts are cut by a pattern of their own; an Arabic letter at the end prevents that."""
    rng = random.Random(0)
    for _ in range(5000):
        text = "".join(rng.choices("abZ09_.,;:'’‘“”–—…  -&/()éñß\n\tÀɏ!?@#%", k=rng.randint(0, 12)))
        assert words(text) == words(f"{text} ض")[:-1]


@pytest.mark.parametrize(
    "unit", ["a.", "1.", "A. ", "\u2026 ", "Dr. 3", "a\u0301.", "\U0001f1e9", " "]
)
def test_words_and_sentences_of_a_long_run_take_no_more_than_a_moment(unit):
    """If the time grew with the square of the length, this would take hours."""
    text = f"It is calm. {unit * (400_000 // len(unit))} It is calm."
    assert words(text)[-3:] == ["It", "is", "calm"]
    assert sentence_ends(text)[-1] == len(text)


def naive_sentence_ends(text: str) -> list[int]:
    """Where sentences of English letters end, from the whole text before and after each mark."""
    ends = []
    for match in re.finditer(r"([.!?\u2026]+)[\"')]*", text):
        before, after = text[: match.start()], text[match.end() :]
        if re.match(" *[,;:-]", after):
            continue
        if set(match[1]).isdisjoint("!?"):
            following = re.match(r"[^\w\n.!?\u2026]*(\w?)", after)[1]
            if following.islower() or after[:1].isalnum():
                continue
            shortened = r"(?<![\w'])([a-zA-Z]|Dr|No)\Z|(?<![\w.,])\d\d?\Z"
            if following.isdigit():
                shortened += r"|(?<![\w'])max\Z"
            if len(match[1]) == 1 and re.search(shortened, before):
                continue
        ends.append(match.end())
    return ends


def test_sentence_ends_are_those_that_a_look_at_the_whole_text_finds():
    rng = random.Random(0)
    parts = [*"aZ16  ..,!?\u2026\"')(-", "calm", "Dr", "No", "max", "The ", ". The ", "\n"]
    for _ in range(20_000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 14)))
        assert sentence_ends(text) == naive_sentence_ends(text), text

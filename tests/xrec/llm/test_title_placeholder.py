"""The place-holder for titles: hidden in references, filled in texts, never half shown."""

import pytest

from xrec.data.titles import title_spans
from xrec.llm.title_placeholder import TitlePlaceholder

PLACEHOLDER = TitlePlaceholder("[title]", "this place")


def test_hide_and_fill_give_the_text_back():
    text, title = "The Fox is near. You would love The Fox", "The Fox"
    hidden = PLACEHOLDER.hide(text, title_spans(text, title))
    assert hidden == "[title] is near. You would love [title]"
    assert PLACEHOLDER.fill(hidden, title) == text


@pytest.mark.parametrize(
    "title", [r"A+ (\1) [x]?", r"\g<0>", "Café Orlán", "蓝狐狸", "[titl", "a]"]
)
def test_fill_takes_a_title_as_it_is(title):
    assert PLACEHOLDER.fill("At [title]'s, [title]", title) == f"At {title}'s, {title}"


@pytest.mark.parametrize("written", ["[title]", "[Title]", "[ title ]", "[TITLE]"])
def test_fill_knows_the_placeholder_in_any_case_and_spacing(written):
    assert PLACEHOLDER.fill(f"You love {written}.", "Fox") == "You love Fox."


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        (
            'Near it is [title]. [title] has tea. "[title] is good!" Go to [title]',
            " ",
            'Near it is this place. This place has tea. "This place is good!" Go to this place',
        ),
        (
            "The [title] is near. Try the [title], a [title] at the [title].",
            "",
            "This place is near. Try this place, this place at this place.",
        ),
        ("Breathe [title].", "", "Breathe this place."),
        ("Your [title] and this [title].", "", "This place and this place."),
        ("Breathe [title], the [title].", "Fox", "Breathe Fox, the Fox."),
        ("[title] is near. See the [title].", "this film", "This film is near. See this film."),
        (
            "The late hours of the [title] please you. The [title] is a [title].",
            "The Fox",
            "The late hours of The Fox please you. The Fox is The Fox.",
        ),
        (
            "You love [title]. It is near [title]!",
            "Fox & Co.",
            "You love Fox & Co. It is near Fox & Co.!",
        ),
    ],
)
def test_fill_leaves_out_articles_and_full_stops_that_would_stand_twice(text, title, expected):
    assert PLACEHOLDER.fill(text, title) == expected


@pytest.mark.parametrize(("text", "waits"), [("The", True), ("at the ", True), ("breathe", False)])
def test_end_of_an_unfinished_text_may_go_only_without_a_title(text, waits):
    assert PLACEHOLDER.may_replace_end_of(text, " ") == waits
    assert not PLACEHOLDER.may_replace_end_of(text, "Fox")
    assert PLACEHOLDER.may_replace_end_of("hours of the", "The Fox")


@pytest.mark.parametrize(
    "text",
    [
        *("You love [title]"[:end] for end in range(10, 16)),
        "You love [title for",
        "love title] a",
        "love tle].",
        "a [",
        "[titles]",
    ],
)
def test_broken_parts_are_found(text):
    assert PLACEHOLDER.is_broken_in(text)
    assert PLACEHOLDER.is_broken_in(f"At [title] {text}")


@pytest.mark.parametrize(
    "text", ["At [title].", "A title is here", "[sic] is [1] fine", "subtitle"]
)
def test_whole_placeholders_and_other_words_are_not_broken(text):
    assert not PLACEHOLDER.is_broken_in(text)

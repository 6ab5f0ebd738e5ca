"""The checks together: a hundred judged texts, plain sentences, lists of words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.xrec.checks.hand_made import BISTRO, GUITAR, NOVEL, VOCABULARY, judged
from xrec.checks import Checker, check_word_list, plain_sentence
from xrec.config.checks import ChecksConfig, PlainConfig
from xrec.config.shared import StorageConfig
from xrec.data.evidence import AspectEvidence
from xrec.errors import DataError
from xrec.llm.prompt import PairTexts

ALL = ChecksConfig(unsupported=True, not_positive=True)


def reason(text: str, texts: PairTexts, checks: ChecksConfig = ALL) -> str:
    refusal = Checker(VOCABULARY).refusal(text, texts, checks)
    return "" if refusal is None else refusal.reason


def evidence(aspect: str, item: int, items: int, user: int = 0, users: int = 0) -> AspectEvidence:
    return AspectEvidence(aspect, item, items, user, users)


def plain(*aspects: AspectEvidence, min_evidence: int = 1) -> str | None:
    texts = replace(BISTRO, item_title="", aspects=aspects)
    return plain_sentence(texts, PlainConfig(), min_evidence)


def test_checker_agrees_with_a_person_on_a_hundred_texts() -> None:
    found = [(verdict, reason(text, texts)) for verdict, text, texts in judged()]
    assert len(found) >= 100
    for each in ("unsupported", "not_positive"):
        right = sum(verdict == each == given for verdict, given in found)
        precision = right / sum(given == each for _, given in found)
        recall = right / sum(verdict == each for verdict, _ in found)
        assert precision >= 0.95, each
        assert recall >= 0.85, each


HOURS, BEER = evidence("late hours", 3, 9), evidence("beer garden", 2, 9)
ONCE = "You will love the Beer Garden. Its late hours are for you."


@pytest.mark.parametrize(
    ("checks", "aspects", "text", "expected"),
    [
        ({"min_chosen": 1}, (HOURS, BEER), "You will love the Late Hour.", ""),
        ({"min_chosen": 1}, (HOURS, BEER), "You will love its beer gardens, and the wine.", ""),
        ({"min_chosen": 1}, (HOURS, BEER), "You will love it.", "unchosen"),
        ({"min_chosen": 1}, (), "You will love it.", ""),
        ({"min_chosen": 2}, (HOURS, BEER), "You will love its late hours.", "unchosen"),
        ({"min_chosen": 2}, (HOURS, BEER), "The late hours and the beer garden are for you.", ""),
        ({"min_chosen": 2}, (HOURS,), "You will love its late hours.", ""),
        ({"named_twice": True}, (), ONCE, ""),
        ({"named_twice": True}, (), f"{ONCE} Late hours suit you.", ""),
        ({"named_twice": True}, (), "The Beer Garden has a beer garden.", "named_twice"),
        ({"named_twice": True}, (), "Its late hours, wine and Late Hour.", "named_twice"),
        ({"named_twice": True}, (), "Late hours at Beer Garden. Late hours!", ""),
    ],
)
def test_text_must_name_enough_of_the_chosen_aspects_and_none_twice(
    checks: dict[str, Any], aspects: tuple[AspectEvidence, ...], text: str, expected: str
) -> None:
    texts = replace(BISTRO, item_title="Beer Garden", aspects=aspects)
    if "min_chosen" in checks:
        texts = replace(texts, item_title="Café 21")
    assert reason(text, texts, ChecksConfig(**checks)) == expected


def test_text_of_an_item_of_which_nothing_is_known_is_unsupported() -> None:
    unknown = PairTexts("You love cables.", "Cable", " ")
    assert reason("You will enjoy the Cable.", unknown) == "unsupported"
    assert reason("You will enjoy the Cable.", unknown, ChecksConfig(not_positive=True)) == ""
    for known in (
        replace(unknown, item_profile="Made of copper."),
        replace(unknown, menu=frozenset(["tone"])),
        replace(unknown, aspects=(evidence("tone", 1, 1),), menu=frozenset(["tone"])),
    ):
        assert reason("You will enjoy the Cable.", known, ChecksConfig(unsupported=True)) == ""


def said(aspect: str, opinion: str) -> AspectEvidence:
    return replace(evidence(aspect, 4, 9), opinion=opinion)


def test_checker_that_is_off_refuses_nothing() -> None:
    for _, text, texts in judged():
        assert reason(text, texts, ChecksConfig()) == ""


def test_checker_names_the_offending_words() -> None:
    text = "You would enjoy the live music of Paris with fifty guests."
    refusal = Checker(VOCABULARY).refusal(text, BISTRO, ALL)
    assert refusal is not None
    assert "'live music', 'Paris', 'fifty'" in refusal.message


@pytest.mark.parametrize(
    ("aspects", "expected"),
    [
        ((evidence("late hours", 14, 31),), "14 of 31 reviews mention the late hours."),
        ((evidence("river view", 1, 3),), "1 of 3 reviews mentions the river view."),
        ((evidence("staff", 1, 1),), "1 of 1 review mentions the staff."),
        ((evidence("tone", 1200, 2000),), "1,200 of 2,000 reviews mention the tone."),
        (
            (evidence("late hours", 14, 31, 3, 7), evidence("river view", 9, 31)),
            "14 of 31 reviews mention the late hours, which you mention in 3 of your 7, and 9 the "
            "river view.",
        ),
        (
            (evidence("river view", 2, 3), evidence("late hours", 1, 3, 1, 1)),
            "2 of 3 reviews mention the river view, and 1 the late hours, which you mention in "
            "yours.",
        ),
        ((evidence("tone", 5, 9, 1, 7),), "5 of 9 reviews mention the tone."),  # once of seven
        (
            (evidence("fit", 5, 9, 2, 4), evidence("tone", 5, 9), evidence("price", 5, 9)),
            "5 of 9 reviews mention the fit, which you mention in 2 of your 4, and 5 the tone.",
        ),
        (
            (said("fit", "like a glove"), said("tone", "warm")),
            "4 of 9 reviews mention the fit (“like a glove”), and 4 the tone (“warm”).",
        ),
        (
            (replace(said("fit", "snug"), user_reviews=2, num_user_reviews=2),),
            "4 of 9 reviews mention the fit (“snug”), which you mention in 2 of your 2.",
        ),
        ((), None),
    ],
)
def test_plain_sentence_says_the_evidence(
    aspects: tuple[AspectEvidence, ...], expected: str | None
) -> None:
    assert plain(*aspects) == expected


def test_plain_sentence_names_an_item_with_a_title() -> None:
    texts = replace(BISTRO, aspects=(evidence("tone", 5, 9), evidence("fit", 2, 9)))
    told = plain_sentence(texts, PlainConfig(), 1)
    assert told == "5 of 9 reviews of Café 21 mention the tone, and 2 the fit."
    told = plain_sentence(texts, PlainConfig(of_title=" of the {title}"), 1)
    assert told == "5 of 9 reviews of the Café 21 mention the tone, and 2 the fit."
    with pytest.raises(ValidationError, match="of_title"):
        PlainConfig(of_title="{aspect}")


def test_plain_sentence_quotes_only_what_passes_the_checks() -> None:
    checker, templates = Checker([*VOCABULARY, "tank"]), PlainConfig()
    quoting, bare = (
        f"4 of 9 reviews of Café 21 mention the fit{opinion}." for opinion in (" (“{}”)", "")
    )

    def told(opinion: str) -> str | None:
        texts = replace(BISTRO, aspects=(said("fit", opinion),), menu=frozenset(["fit"]))
        return checker.plain(texts, templates, 2, ALL)

    for opinion in ("like a glove", "built like a tank"):
        assert told(opinion) == quoting.format(opinion)  # a quoted aspect stands in the evidence
    assert told("awful and horrible") == bare


def test_plain_sentence_leaves_out_aspects_with_too_little_evidence() -> None:
    aspects = evidence("tone", 2, 9), evidence("fit", 4, 9), evidence("price", 3, 9)
    assert plain(*aspects, min_evidence=3) == "4 of 9 reviews mention the fit, and 3 the price."
    assert plain(*aspects, min_evidence=5) is None


def test_plain_sentence_in_another_language_and_with_the_title() -> None:
    templates = PlainConfig(
        reviews=("Gast", "Gästen"),
        mention=("lobt", "loben"),
        first="{item_reviews} von {num_item_reviews} {reviews} von {title} {mention}: {aspect}",
        end="!",
    )
    texts = replace(BISTRO, aspects=(evidence("Garten", 1, 2),))
    assert plain_sentence(texts, templates, 1) == "1 von 2 Gästen von Café 21 lobt: Garten!"


@pytest.mark.parametrize("texts", [BISTRO, NOVEL, GUITAR])
def test_plain_sentence_passes_all_checks_and_takes_the_aspects_form_of_the_profile(
    texts: PairTexts,
) -> None:
    sentence = Checker(VOCABULARY).plain(texts, PlainConfig(), 2, ALL)
    assert sentence is not None
    assert reason(sentence, texts) == ""
    assert ("late hours" in sentence) == (texts is BISTRO)  # "late hour" in the vocabulary


def test_plain_sentence_that_fails_a_check_is_not_said(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("late hours")
    checks = ChecksConfig(unsafe_words=str(words))
    assert Checker(VOCABULARY).plain(BISTRO, PlainConfig(), 2, checks) is None


def test_plain_templates_words_may_be_aspects_of_the_catalogue() -> None:
    sentence = Checker(["review", "late hour"]).plain(BISTRO, PlainConfig(), 10, ALL)
    assert sentence is not None
    assert sentence.startswith("14 of 31 reviews of Café 21 mention")


def test_plain_templates_with_an_unknown_placeholder_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"first holds \{stars\}; allowed there: aspect"):
        PlainConfig(first="{stars} stars")


def test_unsafe_words_of_a_list_are_refused_outside_the_title(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\ufeff# a comment\nkilling\n\n  Damn Fool  \n", encoding="utf-8")
    checks = ChecksConfig(unsafe_words=str(words))
    assert reason("The Killing Hour is skilling you.", NOVEL, checks) == ""
    assert reason("The Killing Hour has much KILLING.", NOVEL, checks) == "unsafe"
    assert reason("Only damn-fools read The Killing Hour.", NOVEL, checks) == "unsafe"


def test_unsafe_words_with_marks_are_refused_as_they_are_written_and_nothing_else(
    tmp_path: Path,
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("sh*t\nb!tch\na$$\n$hit\nf***\n\U0001f595\n", encoding="utf-8")
    checks = ChecksConfig(unsafe_words=str(words))
    for text in ("This is Sh*t.", "A b!tch.", "An a$$.", "A $hit.", "F*** it.", "\U0001f595!"):
        assert reason(text, NOVEL, checks) == "unsafe"
    for text in ("A nice place.", "A hit with guests.", "Route F is near.", "You need a shot."):
        assert reason(text, NOVEL, checks) == ""


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\xfa"])
def test_unsafe_words_of_a_list_that_cannot_be_are_an_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    checks = ChecksConfig(unsafe_words=str(path))
    with pytest.raises(DataError, match=r"checks\.unsafe_words: the list .*words\.txt"):
        check_word_list(checks, StorageConfig())
    with pytest.raises(DataError, match=r"checks\.unsafe_words"):
        reason("Any text.", BISTRO, checks)
    check_word_list(ChecksConfig(), StorageConfig())


def test_aspects_are_written_as_the_profile_has_them_where_its_capitals_mean_something() -> None:
    profile = (
        "Craft beer and BBQ, by the taco stand, for fans of Irish pubs. Pho Ha Market has fish."
    )
    texts = PairTexts("", "Pho Ha Market", profile)
    names = ["craft beer", "bbq", "market", "fish", "tacos"]
    names += ["irish pub", "latin american cuisine", "middle eastern dishes"]
    written = Checker(names).as_written(texts)
    assert [written(name) for name in names] == [
        "craft beer",
        "BBQ",
        "market",
        "fish",
        "tacos",
        "Irish pub",
        "Latin American cuisine",
        "Middle Eastern dishes",
    ]


def test_plain_sentence_writes_no_possessive_and_no_capital_of_a_line() -> None:
    profile = "A cosy bistro. Guests praise the staff's kindness.\n- Late hours\n- Quiet garden"
    aspects = tuple(replace(BISTRO.aspects[0], aspect=name) for name in ("staff", "late hour"))
    texts = replace(BISTRO, item_profile=profile, aspects=aspects)
    sentence = Checker(VOCABULARY).plain(texts, PlainConfig(), 2, ALL)
    assert sentence is not None
    assert "mention the staff, " in sentence
    assert "the late hour" in sentence


def test_plain_sentence_names_what_has_evidence_however_much_a_text_must_name() -> None:
    checks = ALL.model_copy(update={"min_chosen": 3})
    assert Checker(VOCABULARY).plain(BISTRO, PlainConfig(), 2, checks) is not None


def test_an_aspect_may_stand_in_the_sentence_after_a_title_that_ends_with_a_number() -> None:
    text = "You would enjoy the quiet garden of Café 21. The quiet garden is calm."
    assert Checker(VOCABULARY).refusal(text, BISTRO, ChecksConfig(named_twice=True)) is None

"""From generated text to explanation: whole sentences within the words, typed failures."""

import itertools
import unicodedata
from dataclasses import replace
from typing import Any

import pytest

from tests.world.models import toy_tokenizer
from xrec.checks import Checker
from xrec.config import ChecksConfig, DecodingConfig, PromptConfig, TextConfig
from xrec.data.evidence import AspectEvidence
from xrec.data.titles import TitleIndex
from xrec.generate.engine import Completion, Failure, FinishReason
from xrec.generate.text_rules import TextFinisher, cut_to_words
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.title_placeholder import TitlePlaceholder

PROMPT = list(range(100))
TEXT = 'The user likes tea. "It is calm!" It has a gard'
TITLE = "The Rusty Fox"
CATALOGUE = [TITLE, "The Rusty Compass", "Dr. Pepper's Bar", "Fox & Co."]

CHECKER = Checker(["late hours", "live music"])
CHECKS = ChecksConfig(unsupported=True, not_positive=True)
EVIDENCE = AspectEvidence("late hours", 14, 31, 0, 7)
MUSIC = AspectEvidence("live music", 9, 31, 0, 7)
UNSAID = PairTexts("", TITLE, "")


def builder(**prompt: Any) -> PromptBuilder:
    tokenizer = toy_tokenizer()
    return PromptBuilder(tokenizer, PromptConfig(**prompt), Vocabulary(len(tokenizer), 1, 1))


def finisher(checker: Checker | None = None, **prompt: Any) -> TextFinisher:
    return TextFinisher(builder(**prompt), TitleIndex(CATALOGUE), checker)


def encoded(text: str) -> list[int]:
    return builder().encode_explanation(text)[:-1]


def reason_of(failure: Failure | None) -> str:
    return failure.reason if failure else ""


def finish(
    text: str,
    reason: FinishReason = "stop",
    ids: list[int] | None = None,
    title: str = TITLE,
    profile: str = "",
    prompt: list[int] = PROMPT,
    texts: PairTexts | None = None,
    **rules: Any,
) -> tuple[str, str]:
    """The text and the reason of its failure, empty for none; `text` is what the model wrote."""
    prompts, completion = builder(), Completion(0, encoded(text) if ids is None else ids, reason)
    if ids is not None:
        prompts.decode = lambda token_ids: text
    decoding = DecodingConfig(text=TextConfig(**rules))
    finished, failure = TextFinisher(prompts, TitleIndex(CATALOGUE), CHECKER).finish(
        completion, prompt, texts or PairTexts("", title, profile), decoding
    )
    return finished, reason_of(failure)


def told(*aspects: AspectEvidence) -> PairTexts:
    """Texts of a pair with these aspects, which alone are on its menu."""
    return PairTexts("", TITLE, "", aspects, frozenset(each.aspect for each in aspects))


THREE = "It is so good. It is so calm. It is so near."
LONG = "so it is good, " * 40 + "an"
NO_RULES = {"max_words": None, "refuses_repetition": False}
CUT, LOCK = {"reason": "length"}, {"title": "Lock"}
PEPPER = "You love [title]'s tea and all that there is to see."
ORLAN = unicodedata.normalize("NFD", "Café Orlán")
FILLED = "You would love The Rusty Fox."


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("  Calm and near \n", {}, "Calm and near"),
        # What was cut, or is too long, ends with a whole sentence.
        (TEXT, CUT, 'The user likes tea. "It is calm!"'),
        (TEXT, {**CUT, "max_words": 7}, 'The user likes tea. "It is calm!"'),
        (TEXT, {**CUT, "max_words": 6}, "The user likes tea."),
        ("One two three. Four five.", {"max_words": 4}, "One two three."),
        ("One two three four. Five.", {"max_words": 3}, "no_full_sentence"),
        ("One two 3.5 thr", CUT, "no_full_sentence"),
        ("", NO_RULES, "empty_text"),
        # What a review may have smuggled in.
        ("You would love it, see www.evil-shop.com now.", {}, "solicits"),
        ("It is calm. Order now with code TEA!", {}, "solicits"),
        ("You would love it. Ask for Maria.", {}, "solicits"),
        ("[title] is calm.", {"title": "Books.com"}, "Books.com is calm."),
        (LONG, {**CUT, **NO_RULES, "ids": PROMPT}, LONG),
        # Phrases that are repeated; the title is one word of a phrase.
        (THREE, {}, THREE),
        (f"{THREE} It is so old.", {}, "repetitive_text"),
        ("It serves you well for its [title] for its [title].", LOCK, "repetitive_text"),
        ("It is good for its tone and good for its price.", {}, None),
        ("You would enjoy it for the build and build.", {}, "repetitive_text"),
        ("You would enjoy it for the build and the sound of.", {}, "no_full_sentence"),
        ("You love the coffee and the coffee shops.", {}, None),
        ("You would enjoy the delicious and delicious dishes.", {}, "repetitive_text"),
        ("It gets funkier and funkier.", {}, None),
        ("You would enjoy it for the ease of use and the ease of use.", {}, "repetitive_text"),
        ("It should suit you, the [title] and the [title].", LOCK, "repetitive_text"),
        ("You would enjoy it more and more, for years and years.", {}, None),
        ("You would enjoy it for the warm tone and the low price.", {}, None),
        (
            "[title] has tea, [title] has cake, [title] is near, [title] is big, Rusty Fox is it.",
            {},
            None,
        ),
        ("I love [title], " * 4, {}, "repetitive_text"),
        ("I love [title], " * 4, {"title": ORLAN}, "repetitive_text"),
        # What stands in the prompt too.
        ("Calm.", {"ids": [7, *PROMPT[30:55], 7]}, "prompt_echo"),
        ("Calm.", {"ids": [7, *PROMPT[30:54], 7]}, "Calm."),
        # The title's place-holder, and those that stand for nothing.
        ("You would love [title]", {}, "You would love The Rusty Fox"),
        ("[title] is calm.", {}, "The Rusty Fox is calm."),
        (FILLED, {}, FILLED),
        *(
            ("You would love [title].", {"title": title}, f"You would love {title}.")
            for title in ("A+ (\\1) [x]?", "Caf\u00e9 \u84dd\u72d0\u72f8", "[t", "e]")
        ),
        ("[title] has tea.", {"title": ""}, "This item has tea."),
        (
            "You love [title], truly Café Orlán.",
            {"title": ORLAN},
            "You love Café Orlán, truly Café Orlán.",
        ),
        ("You would love [titl", {}, "broken_placeholder"),
        ("Love [title] for its [category].", {"ids": [5]}, "broken_placeholder"),
        ("Love [title] for its [Your name].", {"ids": [5]}, "broken_placeholder"),
        ("It is calm. You would love [ti", CUT, "It is calm."),
        # Names of other items, but for those that the prompt has and those that were cut off.
        ("You would love The Rusty Compass.", {}, "names_another_item"),
        ("You would love The Rusty Compass.", {"title": "The Rusty Compass"}, None),
        ("Try The Rusty Compass.", {"profile": "Once known as The Rusty Compass."}, None),
        ("[title] is better than The Rusty Compass.", {}, "names_another_item"),
        ("You love [title] & Co. more.", {"title": "Fox"}, "names_another_item"),
        ("It is calm. Love The Rusty Compass and many more.", {"max_words": 4}, "It is calm."),
        # The words and full stops of the title.
        ("It is calm. You would love [title].", {"max_words": 9}, f"It is calm. {FILLED}"),
        ("It is calm. You would love [title].", {"max_words": 8}, "It is calm."),
        (PEPPER, {"title": "Dr. Pepper's Bar", "max_words": 8}, "no_full_sentence"),
        (f"{PEPPER} It is calm.", {"title": "Dr. Pepper", "max_words": 5}, "no_full_sentence"),
        (
            f"{PEPPER} It is calm.",
            {"title": "Dr. Pepper", "max_words": 13},
            "You love Dr. Pepper's tea and all that there is to see.",
        ),
    ],
)
def test_finished_text_keeps_the_rules_or_says_which_it_breaks(text, given, expected):
    """`expected` is the text, or the reason of its failure; None is any text without a failure."""
    finished, reason = finish(text, **given)
    assert (reason or finished) == (finished if expected is None else expected)


def test_place_holder_that_stands_in_the_profile_or_is_no_field_is_not_made_up():
    title = TitlePlaceholder("[title]", "it")
    assert title.made_up_in("Love it for its [category].", "[category] is its name") is None
    assert title.made_up_in("A pad [of 1 cm] fits.") is None
    assert TitlePlaceholder('"title"', "it").made_up_in('It is "snug".') is None


@pytest.mark.parametrize(
    ("max_words", "expected"),
    [
        (50, "You love St. Mary's. At St. Mary's you get tea."),
        (9, "You love St. Mary's."),
        (4, "You love St. Mary's."),
        (3, ""),
    ],
)
def test_cut_to_words_never_ends_within_the_title(max_words, expected):
    text = "You love St. Mary's. At St. Mary's you get tea."
    assert cut_to_words(text, max_words, "St. Mary's") == expected
    decomposed, name = unicodedata.normalize("NFD", "Dr. Pão"), "Dr. Pão"
    assert cut_to_words(f"You love {name}'s tea a lot.", 3, decomposed) == ""


def test_finished_text_echo_is_looked_for_with_the_title_filled_in():
    said = "Guests praise The Rusty Fox for its late hours and live music."
    assert max(len(encoded(part)) for part in said.split(TITLE)) < 25 < len(encoded(said))
    text = said.replace(TITLE, "[title]")
    assert finish(text, prompt=encoded(f"Place: {said}"))[1] == "prompt_echo"
    assert finish(text, prompt=encoded(f"Place: {said.replace(TITLE, 'Luna')}"))[1] == ""


def beginnings(text: str) -> list[list[int]]:
    """The ids of `text` as the model writes it, token by token."""
    ids = encoded(text)
    return [ids[:length] for length in range(1, len(ids) + 1)]


def test_unfinished_text_shows_neither_half_a_placeholder_nor_what_would_be_refused():
    def shown(text: str) -> list[str]:
        return [finisher().unfinished(ids, UNSAID) or "" for ids in beginnings(text)]

    steps = shown("[title] is calm, you love [title] and [title]'s tea.")
    assert steps[-1] == "The Rusty Fox is calm, you love The Rusty Fox and The Rusty Fox's tea."
    assert all(steps[-1].startswith(step) and "[" not in step for step in steps)
    assert shown("You love [title and")[-1] == ""
    for text, seen, hidden in (
        ("You love The Rusty Compass, for tea.", "You love The Rusty", "Compass"),
        ("It is calm, see www.evil-shop.com for it.", "It is calm, see", "evil"),
    ):
        steps = shown(text)
        assert seen in steps
        assert not any(hidden in step for step in steps)


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        ("It is calm.", None, []),
        ("It has 4.5 stars. No. 5 is calm. Go", None, ["It has 4.5 stars.", " No. 5 is calm."]),
        ("You love [title] vs. tea. It", None, ["You love The Rusty Fox vs. tea."]),
        ('"It is calm!" (So calm...) \u201cWhy?\u201d', None, ['"It is calm!"', " (So calm...)"]),
        ("It is calm... and so near. Go!", None, ["It is calm... and so near."]),
        ("很安静。有茶。好", None, ["很安静。", "有茶。"]),
        ("So calm. So near. So good.", 3, ["So calm."]),
    ],
)
def test_sentence_of_an_unfinished_text_ends_where_the_next_begins(text, max_words, expected):
    rules = TextConfig(max_words=max_words)
    steps = [finisher().whole_sentences(ids, UNSAID, rules) for ids in beginnings(text)]
    assert list(dict.fromkeys(steps)) == list(itertools.accumulate(["", *expected]))


OWN, TAIL = "You would love it for its late hours", ", making it a great choice for live music"


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        (f"{OWN}.", {}, f"{OWN}."),
        (f"{OWN}{TAIL}.", {}, f"{OWN}."),
        (f"{OWN}, making it a great choice for a long-term stay in the area.", {}, f"{OWN}."),
        (
            f"{OWN}, despite the occasional disappointment due to the lack of a counter.",
            {},
            f"{OWN}.",
        ),
        (f"{OWN}, although it may be crowded.", {}, f"{OWN}."),
        # A chosen aspect is no filler.
        ("Love it, making it the place for late hours.", {}, None),
        (f"You would love its live music{TAIL}.", {}, "unsupported"),
        ("You would love it for its live music.", {}, "unsupported"),
        ("[title] is an awful place with late hours.", {}, "not_positive"),
        (", ".join(["Love live music"] * 4), {}, "repetitive_text"),
        ("Love it. No live music", {"max_words": 2}, "Love it."),  # what was cut off is not checked
    ],
)
def test_finish_checks_the_text_that_keeps_all_other_rules(text, rules, expected):
    finished, reason = finish(text, texts=told(EVIDENCE), checks=CHECKS, **rules)
    assert (reason or finished) == (expected or text)


def test_finish_keeps_the_end_of_a_text_where_no_aspects_were_chosen():
    text = f"{OWN}, despite the wait."
    assert finish(text, texts=UNSAID) == (text, "")


@pytest.mark.parametrize(
    ("text", "opinion", "rules", "expected"),
    [
        ("You would love the late hours", "", {}, "You would love the late hours. {}, {}."),
        (
            "Love the late hours!",
            "until two",
            {},
            "Love the late hours! {} (\u201cuntil two\u201d), {}.",
        ),
        ("Love the late hours!", "like The Rusty Compass", {}, "Love the late hours! {}, {}."),
        ("You would love it.", "", {}, "You would love it. {}, {}."),
        (
            "Live music!",
            "",
            {},
            "Live music! 9 of 31 reviews mention the live music, and 14 the late hours.",
        ),
        ("Love the late hours.", "", {"min_evidence": 10}, "Love the late hours. {}."),
        ("Love the late hours.", "", {"is_backed": False}, "Love the late hours."),
        ("Love the late hours.", "", {"max_words": 10}, "Love the late hours."),
        ("Love the late hours.", "", {"min_evidence": 15}, "Love the late hours. {}."),
        ("You will like it.", "", {"min_evidence": 15}, "You will like it."),
    ],
)
def test_text_is_followed_by_evidence_first_of_what_it_names(text, opinion, rules, expected):
    texts = told(replace(EVIDENCE, opinion=opinion), MUSIC)
    counts = ("14 of 31 reviews mention the late hours", "and 9 the live music")
    finished = finish(text, texts=texts, checks=CHECKS, **{"is_backed": True, **rules})
    assert finished == (expected.format(*counts), "")


def test_backed_text_is_cut_to_words_after_its_own_sentence():
    texts = told(replace(EVIDENCE, opinion="until two"), MUSIC)
    text, _ = finish("You would love [title] for its late hours", texts=texts, is_backed=True)
    own = "You would love The Rusty Fox for its late hours."
    assert text.startswith(f"{own} 14 of 31 reviews mention the late hours (\u201cuntil two\u201d)")
    assert [cut_to_words(text, most, TITLE) for most in (9, 10, 20, 500)] == ["", own, own, text]


def test_what_a_text_names_is_backed_by_a_single_review_too():
    texts = told(EVIDENCE, AspectEvidence("live music", 1, 31, 0, 7, opinion="a treat"))
    finished, _ = finish("Live music!", texts=texts, is_backed=True)
    assert finished == (
        "Live music! 1 of 31 reviews mentions the live music (\u201ca treat\u201d), "
        "and 14 the late hours."
    )


@pytest.mark.parametrize(
    ("num_aspects", "min_chosen", "reason"), [(2, 1, "unchosen"), (2, 0, ""), (0, 1, "")]
)
def test_text_of_a_pair_without_choosable_aspects_rests_on_nothing(num_aspects, min_chosen, reason):
    rules = TextConfig(checks=ChecksConfig(min_chosen=min_chosen), fallback="none")
    texts = PairTexts("", TITLE, "Diners would enjoy it.")
    assert reason_of(finisher(aspects=num_aspects).failure_of_any(texts, rules)) == reason


SAID = PairTexts("", TITLE, "", (EVIDENCE,))
UNTITLED = replace(SAID, item_title="")
SAID_BY_ONE = PairTexts("", TITLE, "", (replace(EVIDENCE, item_reviews=1),))


@pytest.mark.parametrize(
    ("fallback", "texts", "expected"),
    [
        ("plain", SAID, ("14 of 31 reviews of The Rusty Fox mention the late hours.", "")),
        ("plain", UNTITLED, ("14 of 31 reviews of this item mention the late hours.", "")),
        ("plain", SAID_BY_ONE, ("", "abstained")),
        ("plain", UNSAID, ("", "repetitive_text")),
        ("abstain", SAID, ("", "abstained")),
        ("abstain", UNSAID, ("", "abstained")),
        ("none", SAID, ("", "repetitive_text")),
    ],
)
def test_fallback_is_a_plain_sentence_or_the_reason_why_there_is_none(fallback, texts, expected):
    rules = TextConfig.model_validate({"fallback": fallback})
    text, failure = finisher().fallback(texts, rules, Failure("repetitive_text", "it repeats"))
    assert (text, reason_of(failure)) == expected
    assert failure is None or "it repeats" in failure.message
    _, failure = finisher(aspects=2).fallback(UNSAID, TextConfig(), Failure("unsupported", "no"))
    assert reason_of(failure) == "abstained"


@pytest.mark.parametrize("quote", ["ask for Maria", "see www.evil-shop.com", "see [\u2026]"])
def test_plain_sentence_quotes_nothing_that_solicits(quote):
    texts = PairTexts("", TITLE, "", (replace(EVIDENCE, opinion=quote),))
    text, failure = finisher().fallback(texts, TextConfig(), Failure("repetitive_text", ""))
    assert failure is None
    assert text == "14 of 31 reviews of The Rusty Fox mention the late hours."


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        (None, "Sie mögen die Bar, weil sie ruhig ist und lange offen hat.", ""),
        ("de", "Sie mögen die Bar, weil sie ruhig ist und lange offen hat.", ""),
        ("English", "Sie mögen die Bar, weil sie ruhig ist und lange offen hat.", "other_language"),
        ("German", "You would enjoy this bar because it is quiet.", "other_language"),
        ("German", "Calm.", ""),
    ],
)
def test_finished_text_is_in_the_language_of_the_prompt(language, text, reason):
    completion = Completion(0, encoded(text), "stop")
    _, failure = finisher(language=language).finish(completion, PROMPT, UNSAID, DecodingConfig())
    assert reason_of(failure) == reason


@pytest.mark.parametrize(
    ("sentences", "passes"),
    [
        ("It is calm.", False),  # it names no chosen aspect yet
        ("It is lovely. You would love the late hours.", True),
        ("You would love the live music and late hours.", False),  # nothing supports the music
        ("Late hours at The Rusty Compass.", False),
        ("So late hours, so late hours, so late hours, so late hours.", False),
        ("The prompt says that guests praise the late hours.", False),
    ],
)
def test_sentences_pass_if_a_text_of_them_alone_would(sentences, passes):
    texts, checking = told(EVIDENCE), finisher(CHECKER)
    decoding = DecodingConfig(text=TextConfig(checks=ChecksConfig(unsupported=True, min_chosen=1)))
    ids, prompt = encoded(sentences), encoded("The prompt says that guests praise the late")
    assert checking.passes(sentences, ids, prompt, texts, decoding.text) == passes
    _, failure = checking.finish(Completion(0, ids, "stop"), prompt, texts, decoding)
    assert (failure is None) == passes

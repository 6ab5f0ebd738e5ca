"""From generated text to explanation: whole sentences within the words, typed failures."""

import itertools
import unicodedata
from dataclasses import replace
from typing import Any

import pytest

from tests.world.models import toy_tokenizer
from xrec.checks import Checker
from xrec.config import ChecksConfig, DecodingConfig, PromptConfig, TextConfig
from xrec.data import AspectEvidence
from xrec.data.language import TitleIndex
from xrec.errors import Failure
from xrec.generate.engine import Completion, FinishReason
from xrec.generate.text_rules import TextFinisher
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PairTexts, PromptBuilder

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
    """Return the finished text and the failure's reason, or ""; `text` is what the model wrote."""
    prompts, completion = builder(), Completion(0, encoded(text) if ids is None else ids, reason)
    if ids is not None:
        prompts.decode = lambda token_ids: text
    decoding = DecodingConfig(text=TextConfig(**rules))
    finished, failure = TextFinisher(prompts, TitleIndex(CATALOGUE), CHECKER).finish(
        completion, prompt, texts or PairTexts("", title, profile), decoding
    )
    return finished, reason_of(failure)


def told(*aspects: AspectEvidence) -> PairTexts:
    """Return the texts of a pair with these aspects, which are also its menu."""
    return PairTexts("", TITLE, "", aspects, frozenset(each.aspect for each in aspects))


THREE = "It is so good. It is so calm. It is so near."
LONG = "so it is good, " * 40 + "an"
NO_RULES = {"max_words": None, "refuses_repetition": False}
CUT, LOCK = {"reason": "length"}, {"title": "Lock"}
PEPPER = "You love [title]'s tea and all that there is to see."
ORLAN = unicodedata.normalize("NFD", "Café Orlán")
FILLED = "You would love The Rusty Fox."
FOXES = "[title] has tea, [title] has cake, [title] is near, [title] is big, Rusty Fox is it."


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("  Calm and near \n", {}, "Calm and near"),
        ("", NO_RULES, "empty_text"),
        # What was cut, or is too long, ends with a whole sentence.
        (TEXT, CUT, 'The user likes tea. "It is calm!"'),
        (TEXT, {**CUT, "max_words": 6}, "The user likes tea."),
        ("One two three four. Five.", {"max_words": 3}, "no_full_sentence"),
        ("One two 3.5 thr", CUT, "no_full_sentence"),
        ("You would enjoy it for the build and the sound of.", {}, "no_full_sentence"),
        # What a review may have smuggled in.
        ("You would love it, see www.evil-shop.com now.", {}, "solicits"),
        ("[title] is calm.", {"title": "Books.com"}, "Books.com is calm."),
        # Phrases that are repeated; the title is one word of a phrase.
        (LONG, {**CUT, **NO_RULES, "ids": PROMPT}, LONG),
        (THREE, {}, THREE),
        (f"{THREE} It is so old.", {}, "repetitive_text"),
        ("It serves you well for its [title] for its [title].", LOCK, "repetitive_text"),
        ("You love the coffee and the coffee shops.", {}, None),
        ("You would enjoy the delicious and delicious dishes.", {}, "repetitive_text"),
        ("You would enjoy it for the ease of use and the ease of use.", {}, "repetitive_text"),
        ("It should suit you, the [title] and the [title].", LOCK, "repetitive_text"),
        ("You would enjoy it more and more, for years and years.", {}, None),
        (FOXES, {}, None),
        ("I love [title], " * 4, {"title": ORLAN}, "repetitive_text"),
        # What stands in the prompt too.
        ("Calm.", {"ids": [7, *PROMPT[30:55], 7]}, "prompt_echo"),
        ("Calm.", {"ids": [7, *PROMPT[30:54], 7]}, "Calm."),
        # The title's place-holder, and those that stand for nothing.
        ("You would love [title].", {}, FILLED),
        ("You would love [title].", {"title": "[t"}, "You would love [t."),
        ("[title] has tea.", {"title": ""}, "This item has tea."),
        ("[title], truly Café Orlán.", {"title": ORLAN}, "Café Orlán, truly Café Orlán."),
        ("You would love [titl", {}, "broken_placeholder"),
        ("Love [title] for its [Your name].", {"ids": [5]}, "broken_placeholder"),
        ("Love its [category].", {"ids": [5], "profile": "[category] is its name"}, None),
        ("A pad [of 1 cm] fits.", {"ids": [5]}, None),
        # Names of other items, but for those that the prompt has and those that were cut off.
        ("You would love The Rusty Compass.", {}, "names_another_item"),
        ("You would love The Rusty Compass.", {"title": "The Rusty Compass"}, None),
        ("Try The Rusty Compass.", {"profile": "Once known as The Rusty Compass."}, None),
        ("You love [title] & Co. more.", {"title": "Fox"}, "names_another_item"),
        ("It is calm. Love The Rusty Compass and many more.", {"max_words": 4}, "It is calm."),
        # The words and full stops of the title.
        ("It is calm. You would love [title].", {"max_words": 9}, f"It is calm. {FILLED}"),
        ("It is calm. You would love [title].", {"max_words": 8}, "It is calm."),
        (f"{PEPPER} It is calm.", {"title": "Dr. Pepper", "max_words": 5}, "no_full_sentence"),
    ],
)
def test_finished_text_keeps_the_rules_or_has_a_reason(text, given, expected):
    """`expected` is the text or the failure's reason; None accepts any text without a failure."""
    finished, reason = finish(text, **given)
    assert (reason or finished) == (finished if expected is None else expected)


def test_echo_of_the_prompt_is_found_with_the_title_filled_in():
    said = "Guests praise The Rusty Fox for its late hours and live music."
    assert max(len(encoded(part)) for part in said.split(TITLE)) < 25 < len(encoded(said))
    text = said.replace(TITLE, "[title]")
    assert finish(text, prompt=encoded(f"Place: {said}"))[1] == "prompt_echo"
    assert finish(text, prompt=encoded(f"Place: {said.replace(TITLE, 'Luna')}"))[1] == ""


def beginnings(text: str) -> list[list[int]]:
    """Return the IDs of `text` after each token."""
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
        ('"It is calm!" (So calm...) \u201cWhy?\u201d', None, ['"It is calm!"', " (So calm...)"]),
        ("很安静。有茶。好", None, ["很安静。", "有茶。"]),
        ("So calm. So near. So good.", 3, ["So calm."]),
    ],
)
def test_sentence_of_an_unfinished_text_ends_where_the_next_begins(text, max_words, expected):
    rules = TextConfig(max_words=max_words)
    steps = [finisher().whole_sentences(ids, UNSAID, rules) for ids in beginnings(text)]
    assert list(dict.fromkeys(steps)) == list(itertools.accumulate(["", *expected]))


OWN, TAIL = "You would love it for its late hours", ", making it a great choice for live music"
STAY = ", making it a great choice for a long-term stay in the area"


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        (f"{OWN}.", {}, f"{OWN}."),
        (f"{OWN}{TAIL}.", {}, f"{OWN}."),
        (f"{OWN}{STAY}.", {}, f"{OWN}."),
        (f"{OWN}, although it may be crowded.", {}, f"{OWN}."),
        (f"{OWN}, offering live music.", {}, f"{OWN}."),
        # A chosen aspect is no filler.
        ("Love it, making it the place for late hours.", {}, None),
        (f"You would love its live music{TAIL}.", {}, "unsupported"),
        ("[title] is an awful place with late hours.", {}, "not_positive"),
        (", ".join(["Love live music"] * 4), {}, "repetitive_text"),
        ("Love it. No live music", {"max_words": 2}, "Love it."),  # what was cut off is not checked
    ],
)
def test_finish_drops_fillers_and_unsupported_tails_before_it_checks(text, rules, expected):
    finished, reason = finish(text, texts=told(EVIDENCE), checks=CHECKS, **rules)
    assert (reason or finished) == (expected or text)


ONLY_MUSIC = "Live music! 9 of 31 reviews mention the live music"


@pytest.mark.parametrize(
    ("text", "opinion", "rules", "expected"),
    [
        ("You would love the late hours", "", {}, "You would love the late hours. {}, {}."),
        ("Late hours!", "until two", {}, "Late hours! {} (“until two”), {}."),
        ("Late hours!", "like The Rusty Compass", {}, "Late hours! {}, {}."),
        ("You would love it.", "", {}, "You would love it. {}, {}."),
        ("Live music!", "", {}, f"{ONLY_MUSIC}, and 14 mention the late hours."),
        ("Live music!", "", {"min_evidence": 15}, f"{ONLY_MUSIC}."),
        ("Late hours.", "", {"min_evidence": 10}, "Late hours. {}."),
        ("You will like it.", "", {"min_evidence": 15}, "You will like it."),
        ("Late hours.", "", {"is_backed": False}, "Late hours."),
        ("Love the late hours.", "", {"max_words": 10}, "Love the late hours."),
    ],
)
def test_evidence_follows_the_text_and_begins_with_aspects_that_it_names(
    text, opinion, rules, expected
):
    texts = told(replace(EVIDENCE, opinion=opinion), MUSIC)
    counts = ("14 of 31 reviews mention the late hours", "and 9 mention the live music")
    finished = finish(text, texts=texts, checks=CHECKS, **{"is_backed": True, **rules})
    assert finished == (expected.format(*counts), "")


@pytest.mark.parametrize(
    ("num_aspects", "min_chosen", "reason"), [(2, 1, "unchosen"), (2, 0, ""), (0, 1, "")]
)
def test_pair_without_choosable_aspects_is_refused(num_aspects, min_chosen, reason):
    rules = TextConfig(checks=ChecksConfig(min_chosen=min_chosen), fallback="none")
    texts = PairTexts("", TITLE, "Diners would enjoy it.")
    assert reason_of(finisher(aspects=num_aspects).failure_of_any(texts, rules)) == reason


SAID = PairTexts("", TITLE, "", (EVIDENCE,))
PLAIN = "14 of 31 reviews of The Rusty Fox mention the late hours."


def said(**changes: Any) -> PairTexts:
    return replace(SAID, aspects=(replace(EVIDENCE, **changes),))


@pytest.mark.parametrize(
    ("fallback", "texts", "expected"),
    [
        ("plain", SAID, (PLAIN, "")),
        ("plain", replace(SAID, item_title=""), (PLAIN.replace(TITLE, "this item"), "")),
        ("plain", said(opinion="see www.evil-shop.com"), (PLAIN, "")),  # quotes nothing that sells
        ("plain", said(opinion="see [\u2026]"), (PLAIN, "")),
        ("plain", said(item_reviews=1), ("", "abstained")),
        ("plain", UNSAID, ("", "repetitive_text")),
        ("abstain", SAID, ("", "abstained")),
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


GERMAN = "Sie mögen die Bar, weil sie ruhig ist und lange offen hat."


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        (None, GERMAN, ""),
        ("de", GERMAN, ""),
        ("English", GERMAN, "other_language"),
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

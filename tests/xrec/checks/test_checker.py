"""The checks together: a hundred judged texts, tone, plain sentences, lists of words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from tests.errors import raises
from tests.world.models import bert_config, word_tokenizer
from tests.xrec.checks.hand_made import BISTRO, GUITAR, NOVEL, VOCABULARY, judged
from xrec.checks import AspectNames, Checker, check_word_list, plain_sentence
from xrec.checks.english import ASPECT, data, pattern
from xrec.checks.support import Claims
from xrec.checks.tone import why_not_positive
from xrec.config import PLAIN, ChecksConfig, StorageConfig, TextConfig
from xrec.data import AspectEvidence
from xrec.errors import DataError, ModelError
from xrec.llm.prompt import PairTexts

ALL = ChecksConfig(unsupported=True, not_positive=True)
CHECKER = Checker(VOCABULARY)


def reason(text: str, texts: PairTexts, checks: ChecksConfig = ALL) -> str:
    refusal = CHECKER.refusal(text, texts, checks)
    return "" if refusal is None else refusal.reason


def evidence(
    aspect: str, item: int, items: int, user: int = 0, users: int = 0, opinion: str = ""
) -> AspectEvidence:
    return AspectEvidence(aspect, item, items, user, users, opinion=opinion)


def test_checker_agrees_with_a_person_on_a_hundred_texts():
    found = [(verdict, reason(text, texts)) for verdict, text, texts in judged()]
    assert len(found) >= 100
    for each in ("unsupported", "not_positive"):
        right = sum(verdict == each == given for verdict, given in found)
        precision = right / sum(given == each for _, given in found)
        recall = right / sum(verdict == each for verdict, _ in found)
        assert precision >= 0.95, each
        assert recall >= 0.85, each


@pytest.mark.parametrize("name", data()["patterns"])
def test_pattern_finds_its_examples_and_no_others(name):
    of = data()["patterns"][name]
    assert of["finds"]
    assert of["spares"]
    for verdict in ("finds", "spares"):
        for example in of[verdict]:
            is_found = pattern(name).search(example.replace("ASPECT", ASPECT)) is not None
            assert is_found == (verdict == "finds"), example


@pytest.mark.parametrize(
    ("min_chosen", "num_aspects", "text", "expected"),
    [
        (1, 2, "You will love its beer gardens, and the wine.", ""),
        (1, 2, "You will love it.", "unchosen"),
        (1, 0, "You will love it.", ""),
        (2, 2, "You will love its late hours.", "unchosen"),
        (2, 2, "The late hours and the beer garden are for you.", ""),
    ],
)
def test_text_must_name_enough_of_the_chosen_aspects(min_chosen, num_aspects, text, expected):
    chosen = (evidence("late hours", 3, 9), evidence("beer garden", 2, 9))[:num_aspects]
    checks = ChecksConfig(min_chosen=min_chosen)
    assert reason(text, replace(BISTRO, aspects=chosen), checks) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You will love the Beer Garden. Its late hours are for you.", ""),
        ("The Beer Garden suits you for the Beer Garden.", "named_twice"),
        ("The Beer Garden suits you. Try the Beer Garden.", ""),
        ("Its late hours, wine and Late Hour.", "named_twice"),
        ("A quiet garden: the Beer Garden. The quiet garden is calm.", ""),
    ],
)
def test_sentence_must_not_name_the_title_or_an_aspect_twice(text, expected):
    texts = replace(BISTRO, item_title="Beer Garden", aspects=())
    assert reason(text, texts, ChecksConfig(named_twice=True)) == expected


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        ("You will love its staff.", "Café 21", "complained"),
        ("You will love its quiet gardens.", "Café 21", "complained"),
        ("You will love the Quiet Garden for its late hours.", "Quiet Garden", ""),
        ("You will love its fresh pastries.", "Café 21", ""),
    ],
)
def test_text_must_not_name_what_its_user_complains_of(text, title, expected):
    complaints = frozenset({"staff", "quiet garden"})
    texts = replace(BISTRO, item_title=title, complaints=complaints)
    assert reason(text, texts, ChecksConfig(complained=True)) == expected
    assert reason(text, texts, ChecksConfig()) == ""
    assert reason(text, replace(texts, complaints=frozenset()), ChecksConfig(complained=True)) == ""


UNKNOWN = PairTexts("You love cables.", "Cable", " ")


@pytest.mark.parametrize(
    ("texts", "checks", "expected"),
    [
        (UNKNOWN, ALL, "unsupported"),
        (UNKNOWN, ChecksConfig(not_positive=True), ""),
        (replace(UNKNOWN, item_profile="Made of copper."), ALL, ""),
        (replace(UNKNOWN, menu=frozenset(["tone"])), ALL, ""),
        (replace(UNKNOWN, aspects=(evidence("tone", 1, 1),)), ALL, ""),
    ],
)
def test_text_about_an_item_without_any_information_is_unsupported(texts, checks, expected):
    assert reason("You will enjoy the Cable.", texts, checks) == expected


def said(aspect: str, opinion: str) -> AspectEvidence:
    return evidence(aspect, 4, 9, opinion=opinion)


PRICES = (evidence("tone", 2, 9), evidence("fit", 4, 9), evidence("price", 3, 9))


@pytest.mark.parametrize(
    ("aspects", "min_evidence", "expected"),
    [
        ((evidence("river view", 1, 3),), 1, "1 of 3 reviews mentions the river view."),
        ((evidence("tone", 1200, 2000),), 1, "1,200 of 2,000 reviews mention the tone."),
        (
            (evidence("late hours", 14, 31, 3, 7), evidence("river view", 9, 31)),
            1,
            "14 of 31 reviews mention the late hours, which you mention in 3 of your 7, and 9 "
            "mention the river view.",
        ),
        (
            (evidence("river view", 2, 3), evidence("late hours", 1, 3, 1, 1)),
            1,
            "2 of 3 reviews mention the river view, and 1 mentions the late hours, which you "
            "mention in yours.",
        ),
        (
            (said("fit", "like a glove"), said("tone", "warm"), evidence("price", 5, 9)),
            1,
            "4 of 9 reviews mention the fit (“like a glove”), and 4 mention the tone (“warm”).",
        ),
        ((), 1, None),
        (PRICES, 3, "4 of 9 reviews mention the fit, and 3 mention the price."),
        (PRICES, 5, None),
        (
            (said("beers", ""), said("craft beers", ""), said("price", "")),
            1,
            "4 of 9 reviews mention the beers, and 4 mention the price.",
        ),
    ],
)
def test_plain_sentence_states_the_evidence(aspects, min_evidence, expected):
    texts = replace(BISTRO, item_title="", aspects=aspects)
    assert plain_sentence(texts, PLAIN, min_evidence) == expected


def test_plain_sentence_is_worded_by_its_templates():
    texts = replace(BISTRO, aspects=(evidence("tone", 5, 9), evidence("fit", 2, 9)))
    told = plain_sentence(texts, PLAIN, 1)
    assert told == "5 of 9 reviews of Café 21 mention the tone, and 2 mention the fit."
    german = {
        "reviews": "Gast|Gästen",
        "mention": "lobt|loben",
        "first": "{item_reviews} von {num_item_reviews} {reviews} von {title} {mention}: {aspect}",
        "second": " und {item_reviews}: {aspect}",
        "end": "!",
    }
    told = plain_sentence(texts, TextConfig(plain=german).plain, 1)
    assert told == "5 von 9 Gästen von Café 21 loben: tone und 2: fit!"


@pytest.mark.parametrize(
    ("opinion", "quoted"),
    # A quoted aspect stands in the evidence.
    [("built like a tank", " (“built like a tank”)"), ("awful and horrible", "")],
)
def test_plain_sentence_quotes_only_what_passes_the_checks(opinion, quoted):
    texts = replace(BISTRO, aspects=(said("fit", opinion),), menu=frozenset(["fit"]))
    told = Checker([*VOCABULARY, "tank"]).plain(texts, PLAIN, 2, ALL)
    assert told == f"4 of 9 reviews of Café 21 mention the fit{quoted}."


@pytest.mark.parametrize("texts", [BISTRO, NOVEL, GUITAR])
def test_plain_sentence_passes_all_checks_and_names_aspects_as_the_profile_does(texts):
    """It names what has evidence, however much a text must name."""
    checks = ALL.model_copy(update={"min_chosen": 3})
    sentence = CHECKER.plain(texts, PLAIN, 2, checks)
    assert reason(sentence, texts) == ""
    assert ("late hours" in sentence) == (texts is BISTRO)  # "late hour" in the vocabulary


def test_words_of_the_templates_may_be_aspects_of_the_catalog():
    sentence = Checker(["review", "late hour"]).plain(BISTRO, PLAIN, 10, ALL)
    assert sentence.startswith("14 of 31 reviews of Café 21 mention")


WORDS = "\ufeff# a comment\nkilling\n\n  Damn Fool  \nsh*t\nf***\na$$\n$hit\nlate hours\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Killing Hour is skilling you.", ""),
        ("The Killing Hour has much KILLING.", "unsafe"),
        ("Only damn-fools read The Killing Hour.", "unsafe"),
        ("A $hit.", "unsafe"),
        ("It is f***ing loud.", "unsafe"),
        ("A nice place, a hit with guests: you need a shot.", ""),
    ],
)
def test_unsafe_words_of_a_list_are_refused_outside_the_title(tmp_path, text, expected):
    words = tmp_path / "words.txt"
    words.write_text(WORDS, encoding="utf-8")
    checks = ChecksConfig(unsafe_words=str(words))
    assert reason(text, NOVEL, checks) == expected
    assert CHECKER.plain(BISTRO, PLAIN, 2, checks) is None  # its late hours


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "list_unreadable"), (b"# nothing\n", "list_empty"), (b"\xff\xfe", "list_unreadable")],
)
def test_list_of_unsafe_words_that_is_missing_or_invalid_is_an_error(tmp_path, content, code):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    checks = ChecksConfig(unsafe_words=str(path))
    with raises(DataError, code, key="checks.unsafe_words", saw=str(path)):
        check_word_list(checks, StorageConfig())
    with raises(DataError, code):
        reason("Any text.", BISTRO, checks)
    check_word_list(ChecksConfig(), StorageConfig())


def test_aspects_are_capitalized_as_names_in_the_profile_are():
    profile = (
        "Craft beer and Texas BBQ, by the taco stand, for fans of Irish pubs. "
        "Pho Ha Market has fish. Guests praise the staff's kindness.\n- Late hours\n"
        "- Quiet garden\n- It is no Busloop Burgers, nor Bonjung Sushi & Noodles, "
        "whose sushi is Arts & Crafts. Vegans love it."
    )
    names = ["craft beer", "BBQ", "market", "fish", "tacos", "Irish pub", "staff", "late hours"]
    names += ["Latin American cuisine", "Middle Eastern dishes"]
    names += ["burgers", "sushi", "noodles", "crafts", "vegans"]
    texts = PairTexts("", "Pho Ha Market", profile)
    written = Checker(map(str.lower, names), are_written=True).as_written(texts)
    assert [written(name.lower()) for name in names] == names


ASPECTS = AspectNames(VOCABULARY)


def why(text: str, texts: PairTexts = BISTRO) -> str:
    """The reason why it is not positive, "" if it is."""
    return why_not_positive(Claims(text, texts, ASPECTS)) or ""


@pytest.mark.parametrize(
    "quoted", ['"awful"', "\u201cawful\u201d", "\u201eawful\u201c", "\u00abawful\u00bb"]
)
def test_blame_in_quotation_marks_of_any_kind_is_found(quoted):
    assert why(f"Guests call this place {quoted} and leave.")


@pytest.mark.parametrize(
    "text",
    [
        "Not only the late hours but the staff will please you.",
        "A no-frills bistro with a quiet garden.",
        "The quiet garden is never crowded.",
        "You get a quiet garden without high prices.",
        "Some find the staff slow, but the quiet garden is lovely.",
        "",
        # Other languages pass. VADER knows "die" and "war".
        "Die Bar hat die Terrasse, die Sie lieben, und war nie voll.",
        "Le bar n'a pas de jardin et la mal nommée terrasse est triste.",
        "这家店很糟糕。",
        "You would enjoy the quiet garden without the live music.",  # which was not chosen
    ],
)
def test_praise_with_words_of_denial_is_positive(text):
    assert why(text) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It has no quiet garden.", "denies or excludes"),
        ("You would enjoy the quiet garden without the late hours.", "denies or excludes"),
        ("The late hours leave much to be desired.", "dissuades"),
        ("The late hours aren\u2019t what you love.", "denies or excludes"),
        ("You would hate it here.", "sentiment is negative (-0.57)"),
        ("The user may not enjoy this great and lovely place.", "dissuades: 'may not enjoy'"),
        ("You would like its great tone and high price.", "blames: 'high price'"),
    ],
)
def test_blame_and_denial_are_refused(text, reason):
    assert reason in why(text)


def test_grim_titles_and_subjects_are_no_blame_but_grim_judgments_are():
    text = "The Killing Hour is a murder mystery, a case of murder and revenge in court."
    assert why(text, NOVEL) == ""
    assert "sentiment" in why(text, replace(NOVEL, item_title="", item_profile=""))
    blamed = replace(NOVEL, item_profile=f"{NOVEL.item_profile} Some find it terrible.")
    assert "sentiment" in why("You would find this book of murder terrible.", blamed)
    parking = replace(NOVEL, item_title="The High Cost of Free Parking")
    assert why("You would enjoy The High Cost of Free Parking for its plot.", parking) == ""


WORDS_OF_MODEL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "you", "enjoy", "the", "quiet", "garden"]
LABELS = {"contradiction": 0, "neutral": 1, "ENTAILMENT": 2}


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Writes a tiny random model that always finds a certain label; returns its folder."""
    of_labels = {"label2id": LABELS, "id2label": {number: name for name, number in LABELS.items()}}
    model = BertForSequenceClassification(bert_config(WORDS_OF_MODEL, **of_labels))
    tokenizer = word_tokenizer(WORDS_OF_MODEL)

    def folder_of(label: int) -> str:
        folder = str(tmp_path_factory.mktemp("judge"))
        with torch.no_grad():
            model.classifier.bias.copy_(torch.eye(3)[label] * 100)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return folder_of


def test_text_that_a_model_does_not_find_entailed_is_unsupported(judge):
    text = "You would enjoy the quiet garden. You would enjoy the late hours."
    entailing, other = (ChecksConfig(entailment=judge(label)) for label in (2, 0))
    assert CHECKER.refusal(text, BISTRO, entailing) is None
    refusal = CHECKER.refusal(text, BISTRO, other)
    assert refusal.reason == "unsupported"
    assert (
        "'You would enjoy the quiet garden.' is entailed with probability 0.00" in refusal.message
    )
    assert CHECKER.plain(BISTRO, PLAIN, 2, other) is not None  # it cites counts
    long = replace(BISTRO, item_profile="the garden " * 1000)  # longer than the model reads
    assert CHECKER.refusal(text, long, entailing) is None


@pytest.mark.parametrize("labels", [None, {"a": 0, "b": 1, "c": 2}])
def test_entailment_model_that_cannot_be_used_is_an_error(tmp_path, judge, labels):
    folder = str(tmp_path) if labels is None else judge(2)
    if labels is not None:
        path = Path(folder, "config.json")
        config = json.loads(path.read_text())
        config |= {"label2id": labels, "id2label": {v: k for k, v in labels.items()}}
        path.write_text(json.dumps(config))
    with raises(ModelError, "model_not_loadable", key="checks.entailment", saw=folder):
        reason("Any text.", BISTRO, ChecksConfig(entailment=folder))

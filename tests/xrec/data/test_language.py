import pytest

from xrec.data.language import language_code, language_name, language_of, other_language

GERMAN = "Die Kaffeemühle ist sehr leise und mahlt gleichmäßig, der Deckel sitzt etwas locker."
ENGLISH = "So quiet that nobody wakes up, and the grind is as fine as I like it."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("とても静かなコーヒーミルです。朝早くても誰も起きません。", "ja"),
        (f"{GERMAN} " * 40 + f"{ENGLISH} " * 400, "de"),  # of its beginning
        # too short, or mixed
        ("", None),
        ("Sehr gut!", None),
        ("12345 67890 12345 67890 :-) :-) :-)", None),
        ("Gnocchi al pesto, tiramisu, espresso, prosecco: great osteria", None),
    ],
)
def test_language_of_a_sentence_is_found_where_it_is_sure(text, code):
    assert language_of(text) == code


@pytest.mark.parametrize(
    ("language", "code", "name"),
    [
        ("de", "de", "German"),
        ("German", "de", "German"),
        ("informal German, with du", "de", "informal German, with du"),
        ("PT", "pt", "Portuguese"),
        ("Klingon", None, "Klingon"),
    ],
)
def test_language_by_code_or_name_has_both(language, code, name):
    assert (language_code(language), language_name(language)) == (code, name)


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        (GERMAN, "de", None),
        (GERMAN, "English", "German"),
        (ENGLISH, "German", "English"),
        ("Good.", "German", None),
        (GERMAN, "Klingon", None),
    ],
)
def test_other_language_is_named_only_where_it_is_sure(text, language, other):
    assert other_language(text, language) == other

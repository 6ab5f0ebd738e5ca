"""Titles in texts: the own one in full and in short, other items' names, and common words."""

import random
import unicodedata
from multiprocessing import get_context

import pyarrow as pa
import pytest

from xrec.data.language.titles import TitleIndex, composed, title_spans


def found(text: str, title: str) -> list[str]:
    return [text[start:end] for start, end in title_spans(text, title)]


def own(text: str, title: str, *others: str) -> list[str]:
    return [text[start:end] for start, end in TitleIndex([title, *others]).own_spans(text, title)]


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        ("You would love The Rusty Fox, and The Rusty Fox only.", "The Rusty Fox", 2),
        ("You would love the rusty Fox.", "The Rusty Fox", 0),
        ("You would love The Rusty Foxes.", "The Rusty Fox", 0),
        ("You would love RUSTY FOX.", "The Rusty Fox", 1),
        ("Bub\u2019s & Co is near.", "Bub's and Co", 1),
        ("The Rusty Fox's tea and The Rusty Fox\u2019s jam.", "The Rusty Fox", 2),
        ("Wendy is near.", "Wendy's", 0),
        ("Lunch at adidas is fun.", "adidas", 1),
        ("A target is near.", "Target", 0),
        ("Open 7 days a week.", "7", 0),
        ("Anything goes.", "", 0),
        ("You would love Cafe\u0301 Orla\u0301n.", "Café Orlán", 1),
        ("您会喜欢蓝狐狸咖啡馆的音乐", "蓝狐狸咖啡馆", 1),
    ],
)
def test_title_is_found_where_it_is_written_as_a_name(text, title, expected):
    assert len(found(composed(text), title)) == expected


@pytest.mark.parametrize(
    ("text", "title", "others", "expected"),
    [
        ("You would enjoy Jeni's for ice.", "Jeni's Splendid Ice Creams", (), ["Jeni's"]),
        ("The Dandelion, Dandelion.", "The Dandelion", (), ["The Dandelion", "Dandelion"]),
        ("You would enjoy Mad Mex's tea.", "Mad Mex - University City", (), ["Mad Mex"]),
        ("You would see Love Mule there.", "The Love", (), []),
        ("You would enjoy Skyline Chilli now.", "Skyline Diner", (), []),
        ("You would see Athens there.", "Athens Diner", ("Taste of Athens",), []),
        ("You would enjoy fresh bread.", "Fresh Kitchen", (), []),
    ],
)
def test_own_spans_short_names_count_where_they_name_this_item_alone(text, title, others, expected):
    assert own(text, title, *others) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_title_and_context_in_any_unicode_form_are_found_in_a_composed_text(form):
    title, other, profile = (
        unicodedata.normalize(form, text)
        for text in ("(Café) Orlán!", "Pão Doce", "Next to Pão Doce.")
    )
    index, text = TitleIndex([title, other]), "You would love (Café) Orlán! for its tea."
    assert found(text, title) == ["(Café) Orlán!"]
    assert own(text, title, other) == ["(Café) Orlán!"]
    assert own("You would love Café for its tea.", title, other) == ["Café"]
    assert index.other_title(text, title) is None
    assert index.other_title("It is near Pão Doce.", title) == "Pão Doce"
    assert index.other_title("It is near Pão Doce.", title, [profile]) is None


CATALOGUE = ["The Rusty Fox", "The Rusty Compass", "Fox", "Target", "The Friendly", "Sea Salt"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You are likely to love The Rusty Compass, because of tea.", "The Rusty Compass"),
        ("A Fox lives near The Rusty Fox.", None),  # a part of the own title
        ("It is near Target and cheap.", "Target"),
        ("Target groups are many.", None),  # a sentence begins with a capital anyway
        ("It has Target Shooting.", None),  # part of a longer name
        ("The Rusty Fox has the friendly staff and sea salt.", None),
        ("You would love The Rusty Compass's tea.", "The Rusty Compass's"),
        ("", None),
    ],
)
def test_other_title_is_a_whole_name_of_another_item(text, expected):
    assert TitleIndex(CATALOGUE).other_title(text, "The Rusty Fox") == expected


def test_other_title_that_is_long_is_found_by_its_first_twelve_words():
    title = "Regular Slinky Nickel Wound Electric Guitar Strings Gauge 10 46 with a Pick of Yours"
    index = TitleIndex([title, "Luna"])
    first_words = " ".join(title.split()[:12])
    assert index.other_title(f"You would enjoy Luna more than the {title}.", "Luna") == first_words
    assert index.other_title(f"You would enjoy {title} for its tone.", title) is None
    begun = " ".join(title.split()[:11])
    assert index.other_title(f"You would enjoy the {begun}.", "Luna") is None


def test_hashes_of_titles_are_files_that_other_processes_search(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    column = pa.chunked_array([CATALOGUE[:2], CATALOGUE[2:]])
    with get_context("spawn").Pool(1) as pool:  # whose hash() is another one
        pool.apply(_build, [column])
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert made
    index = TitleIndex.of_column(column)
    for title in ("The Rusty Fox", "The Rusty Compass", "Sea Salt", "Target"):
        assert index.other_title(f"It is better than {title} too.", "Nowhere") == title
        assert index.other_title(f"It is better than {title} too.", title) is None
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == made
    TitleIndex.of_column(column.slice(1))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) != made


def _build(column: pa.ChunkedArray) -> None:
    TitleIndex.of_column(column)


OWNERS = ["Wendy", "Wendy's", "Bub's and Co", "Bub"]
NEAR = "It is better than The Rusty Compass."


@pytest.mark.parametrize(
    ("titles", "text", "title", "context", "expected"),
    [
        # what the prompt names is allowed
        (CATALOGUE, NEAR, "The Rusty Fox", ["Next to The Rusty Compass."], None),
        (CATALOGUE, NEAR, "The Rusty Fox", ["Next to a compass."], "The Rusty Compass"),
        # a possessive of the own title is no other one
        (OWNERS, "Lunch at Wendy's is fun.", "Wendy", [], None),
        (OWNERS, "Lunch at Bub's is fun.", "Bub's and Co", [], None),
        (OWNERS, "Lunch at Wendy's is fun.", "Bub", [], "Wendy's"),
        (OWNERS, "Lunch at Wendy is fun.", "Bub", ["Next to Wendy's."], None),
        # one of the same name is the own one, and some cannot be found
        (["Taco Bell", "Taco Bell"], "At Taco Bell.", "Taco Bell", [], None),
        (["", "!", "7"], "The Rusty Fox! 7", "x", [], None),
    ],
)
def test_other_title_beside_the_own_one_and_a_context(titles, text, title, context, expected):
    assert TitleIndex(titles).other_title(text, title, context) == expected


def test_other_title_finds_what_a_search_for_each_title_finds():
    """Against a search title by title, over random catalogues of names that overlap."""
    rng = random.Random(0)
    names = ["Alder", "Birch", "Cedar", "Dogwood", "Elm"]
    for _ in range(200):
        titles = {" ".join(rng.choices(names, k=rng.randint(2, 3))) for _ in range(6)}
        title = rng.choice(sorted(titles))
        text = "you like " + " ".join(rng.choices([*names, "and"], k=8))
        expected = any(
            f" {other} " in f" {text} " and f" {other} " not in f" {title} " for other in titles
        )
        assert (TitleIndex(titles).other_title(text, title) is not None) == expected

"""Answers that are cut to `max_words`, of one version, and of whoever has them first."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from xrec.backfill.lookup import Explained
from xrec.bulk.takedown import Takedowns
from xrec.checks import AspectNames
from xrec.data.evidence import NamedEvidence
from xrec.data.ids import IdIndex
from xrec.serve.messages import Explanation, NoExplanation, PairRequest
from xrec.serve.metrics import Metrics
from xrec.serve.model import ModelHandle, PairError
from xrec.serve.read_through import ReadThrough

TEXT = "It is calm. You love Hi! Mary's for its tea and for its garden."


class Writing(ModelHandle):
    """Writes one text for every pair."""

    def __init__(self, text: str, aspects: Sequence[NamedEvidence] = ()):
        self._text = Explained(text, 9, 7, "stop", "model", "written", tuple(aspects))

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        return [self._text] * len(pairs)


class Version:
    """A lookup that explains every pair with one text, and calls `meanwhile` when it reads."""

    num_bytes = 0

    def __init__(self, text: str, meanwhile: Callable[[], None] = lambda: None):
        self._text, self._meanwhile = text, meanwhile

    def in_memory(self, user_id: str, item_id: str) -> tuple[bool, None]:
        return False, None

    def find(self, user_id: str, item_id: str) -> Explained:
        self._meanwhile()
        return Explained(self._text, 1, 1, "stop", "model", "written", ())


def answering(
    model: ModelHandle, titles: Sequence[str] = ("The Fox",), vocabulary: Sequence[str] = ()
) -> ReadThrough:
    """Answers pairs of a catalogue whose items `i0`, `i1`, ... have these titles."""
    catalogue = SimpleNamespace(
        dataset=SimpleNamespace(
            item_ids=IdIndex(pa.chunked_array([[f"i{index}" for index in range(len(titles))]]))
        ),
        item_texts=lambda item: (titles[item], ""),
        aspect_names=AspectNames(vocabulary),
    )
    published = SimpleNamespace(lookup=None, model_fingerprint="model", takedowns=Takedowns({}))
    return ReadThrough(catalogue, published, model, Metrics(), 30)


def answer(
    read_through: ReadThrough, max_words: int | None, item: str = "i0", **values: Any
) -> Explanation:
    pair = PairRequest(user_id="u", item_id=item, **values)
    (found,) = asyncio.run(read_through.explain([pair], max_words))
    assert isinstance(found, Explanation)
    return found


@pytest.mark.parametrize(
    ("titles", "item", "profiles", "expected"),
    [
        (["The Fox", "Hi! Mary's"], "i1", None, "It is calm."),
        (["Hi! Mary's", "The Fox"], "i1", None, "It is calm. You love Hi!"),
        (["The Fox"], "i0", {"item_title": "Hi! Mary's"}, "It is calm."),
        (["The Fox"], "unknown", {"item_title": "Hi! Mary's"}, "It is calm."),
    ],
)
def test_cut_ends_a_sentence_and_falls_in_no_title_of_the_pair(titles, item, profiles, expected):
    read_through = answering(Writing(TEXT), titles)
    assert answer(read_through, 8, item, profiles=profiles).explanation == expected
    assert answer(read_through, 500, item, profiles=profiles).explanation == TEXT
    pair = PairRequest(user_id="u", item_id=item, profiles=profiles)
    (none,) = asyncio.run(read_through.explain([pair], 2))
    assert isinstance(none, NoExplanation)
    assert none.problem.type == "/problems/no_full_sentence"


def test_aspects_of_a_cut_answer_are_named_only_if_what_is_left_names_them():
    aspects = [
        NamedEvidence(name, 9, 30, 3, 7, is_named=is_named)
        for name, is_named in (
            ("late hours", True),
            ("hours", True),
            ("price", True),
            ("tea", False),
        )
    ]
    text = (
        "You would enjoy its late hours. 9 of 30 reviews mention the price, 9 the late hours, and "
        "the hours."
    )
    vocabulary = ("late hours", "price", "hours", "late hours bar")
    read_through = answering(Writing(text, aspects), vocabulary=vocabulary)
    whole, cut = answer(read_through, None), answer(read_through, 6)
    assert (whole.is_cached, cut.is_cached) == (False, True)
    assert cut.explanation == "You would enjoy its late hours."
    assert [each.is_named for each in whole.aspects] == [True, True, True, False]
    assert [each.is_named for each in cut.aspects] == [True, False, False, False]
    assert [each.item_reviews for each in cut.aspects] == [9] * 4


def test_request_is_answered_from_one_version_also_if_another_comes_meanwhile():
    read_through = answering(Writing("of the model"))
    published: Any = read_through.published
    published.lookup = Version(
        "the first", lambda: setattr(published, "lookup", Version("the second"))
    )
    pairs = [PairRequest(user_id="u", item_id=f"i{number}") for number in range(3)]
    for version in ("the first", "the second"):
        answers = asyncio.run(read_through.explain(pairs, None))
        assert [each.explanation for each in answers] == [version] * 3


def test_text_of_another_model_is_not_given_from_memory():
    read_through = answering(Writing("of the model"))
    assert [answer(read_through, None).is_cached for _ in range(2)] == [False, True]
    read_through.published.model_fingerprint = "another"
    assert not answer(read_through, None).is_cached


def test_fault_in_the_answer_of_one_pair_is_a_problem_of_that_pair():
    read_through = answering(Writing(TEXT), ["The Fox", "The Owl", "The Cat"])
    read_through.catalogue.item_texts = lambda item: ({0: "The Fox", 2: "The Cat"}[item], "")
    pairs = [PairRequest(user_id="u", item_id=f"i{number}") for number in range(3)]
    first, broken, last = asyncio.run(read_through.explain(pairs, None))
    assert (first.explanation, last.explanation) == (TEXT, TEXT)
    assert (broken.problem.status, broken.problem.type) == (500, "/problems/bug")

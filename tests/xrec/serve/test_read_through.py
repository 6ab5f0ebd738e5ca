"""Answers that are cut to `max_words`, with the title of the pair's item."""

from types import SimpleNamespace

import pytest

from xrec.serve.live import LiveText
from xrec.serve.messages import Explanation, PairRequest, ProfileOverrides
from xrec.serve.metrics import FRONTEND, Recorder
from xrec.serve.read_through import ReadThrough

TEXT = "It is calm. You love Hi! Mary's for its tea and for its garden."


def answer(pair: PairRequest, titles: list[str], max_words: int) -> str:
    """What `pair` is answered if the model writes TEXT and `i0`, `i1`, ... have these titles."""
    read_through = ReadThrough(None, Recorder(FRONTEND), 2**20)  # type: ignore[arg-type]
    read_through.catalogue = SimpleNamespace(  # type: ignore[assignment]
        dataset=SimpleNamespace(item_indices={f"i{index}": index for index in range(len(titles))}),
        item_texts=lambda item: (titles[item], ""),
    )
    answered = read_through.generated(pair, LiveText(TEXT, None), max_words)
    assert isinstance(answered, Explanation)
    return answered.explanation


def test_cut_falls_in_no_title_of_the_catalogue() -> None:
    pair = PairRequest(user_id="u", item_id="i1")
    assert answer(pair, ["The Fox", "Hi! Mary's"], 8) == "It is calm."
    assert answer(pair, ["Hi! Mary's", "The Fox"], 8) == "It is calm. You love Hi!"


@pytest.mark.parametrize("item_id", ["i0", "unknown"])
def test_cut_falls_in_no_title_of_the_request(item_id: str) -> None:
    profiles = ProfileOverrides(item_title="Hi! Mary's")
    pair = PairRequest(user_id="u", item_id=item_id, profiles=profiles)
    assert answer(pair, ["The Fox"], 8) == "It is calm."

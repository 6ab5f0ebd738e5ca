"""A reply that is not valid is asked for again once, with what was wrong, and then has failed."""

from collections.abc import Iterator, Sequence

from tests.xrec.text.asked import Said, prompts
from xrec.config.text import SamplingConfig
from xrec.text import Prompt, RawReply, Reply, ReplyFailure, Usage, ask

COST = Usage(10, 2, 1)


class Scripted:
    """A LanguageModel whose texts for a prompt are the next ones of a list."""

    name = "scripted"

    def __init__(self, texts: dict[str, list[str]], cut: str = ""):
        self._texts, self._cut = texts, cut
        self.calls: list[tuple[list[Prompt], SamplingConfig]] = []

    def write(self, prompts: Sequence[Prompt], sampling: SamplingConfig) -> Iterator[RawReply]:
        """Reply to the last prompt first."""
        self.calls.append((list(prompts), sampling))
        for index in reversed(range(len(prompts))):
            text = self._texts[prompts[index].messages[0].content].pop(0)
            if text == "refused":
                failure = ReplyFailure("bad_request", "no")
                yield RawReply(index, "", COST, failure=failure)
            else:
                yield RawReply(index, text, COST, is_cut=text == self._cut)

    def close(self) -> None:
        """Nothing to close."""


def _asked(model: Scripted, number: int) -> dict[int, Reply[Said]]:
    replies = list(ask(model, prompts(number), SamplingConfig(seed=5)))
    assert len(replies) == number
    return {reply.index: reply for reply in replies}


def test_ask_gives_valid_and_repaired_objects_with_their_costs() -> None:
    model = Scripted({"word-0": ['{"word": "a"}'], "word-1": ["{'word': 'b'"]})
    replies = _asked(model, 2)
    assert [replies[place].value for place in (0, 1)] == [Said(word="a"), Said(word="b")]
    assert replies[0].usage == COST
    assert len(model.calls) == 1


def test_ask_again_shows_the_reply_and_what_is_wrong_and_changes_the_seed() -> None:
    model = Scripted({"word-0": ['{"no": 1}', '{"word": "a"}'], "word-1": ['{"word": "b"}']})
    replies = _asked(model, 2)
    assert replies[0].value == Said(word="a")
    assert replies[0].usage == COST + COST
    second, sampling = model.calls[1]
    assert sampling.seed == 6
    assert [message.role for message in second[0].messages] == ["user", "assistant", "user"]
    assert second[0].messages[1].content == '{"no": 1}'
    assert "word: Field required" in second[0].messages[2].content


def test_ask_twice_without_a_valid_reply_fails_with_the_raw_reply() -> None:
    model = Scripted({"word-0": ["no", "never"], "word-1": ['{"word": "b"}']})
    replies = _asked(model, 2)
    assert replies[0].value is None
    assert replies[0].failure == ReplyFailure("invalid_json", "no JSON object is in the reply")
    assert replies[0].raw == "never"
    assert replies[0].usage.num_requests == 2
    assert replies[1].value == Said(word="b")
    assert len(model.calls) == 2


def test_ask_does_not_ask_again_for_what_the_endpoint_refused() -> None:
    model = Scripted({"word-0": ["refused"]})
    replies = _asked(model, 1)
    assert replies[0].failure == ReplyFailure("bad_request", "no")
    assert len(model.calls) == 1


def test_ask_again_after_a_reply_that_was_too_long_says_so() -> None:
    long = '{"word": "a very long wo'
    model = Scripted({"word-0": [long, '{"word": "a"}']}, cut=long)
    assert _asked(model, 1)[0].value == Said(word="a")
    assert "too long" in model.calls[1][0][0].messages[2].content

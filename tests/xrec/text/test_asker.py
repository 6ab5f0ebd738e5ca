"""Equal prompts are asked once, also after a kill, and a budget ends the asking."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.text.asked import Said, prompts
from xrec.config.text import SamplingConfig
from xrec.errors import BudgetError
from xrec.storage import open_location
from xrec.text import Message, Prompt, RawReply, ReplyFailure, Usage
from xrec.text.asker import Asker, Budget
from xrec.text.reply_store import ReplyStore

COST = Usage(10, 2, 1)
SAMPLING = SamplingConfig(max_tokens=2)


class Counting:
    """A LanguageModel that says the prompt's word, and counts who asked for which."""

    name = "counting"

    def __init__(self, wrong: dict[str, str] | None = None, dies_after: int | None = None):
        self.asked: list[str] = []
        self._wrong, self._dies_after = wrong or {}, dies_after

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """One reply after the other."""
        for index, prompt in enumerate(prompts):
            if len(self.asked) == self._dies_after:
                raise KeyboardInterrupt
            word = prompt.messages[0].content
            self.asked.append(word)
            text = self._wrong.get(word, f'{{"word": "{word}"}}')
            failure = ReplyFailure("timeout", "late") if text == "late" else None
            yield RawReply(index, text, COST, failure=failure)

    def close(self) -> None:
        """Nothing to close."""


def _asker(
    model: Counting,
    folder: Path,
    budget: Budget | None = None,
    *,
    named: str = "m",
    sampling: SamplingConfig = SAMPLING,
) -> Asker:
    store = ReplyStore(open_location(str(folder)))
    return Asker(model, sampling, store, identity={"model": named}, budget=budget)


def test_asker_asks_equal_prompts_once_and_counts_their_cost_once(tmp_path: Path) -> None:
    model = Counting()
    one, other = prompts(2)
    replies = _asker(model, tmp_path).ask([one, other, one, one])
    assert [reply.index for reply in replies] == [0, 1, 2, 3]
    assert [reply.value for reply in replies] == [
        Said(word=word) for word in ("word-0", "word-1", "word-0", "word-0")
    ]
    assert model.asked == ["word-0", "word-1"]
    assert [reply.usage for reply in replies] == [COST, COST, Usage(), Usage()]


def test_asker_of_a_killed_process_leaves_its_replies_to_the_next_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _asker(Counting(dies_after=3), tmp_path).ask(prompts(5))
    model = Counting()
    replies = _asker(model, tmp_path).ask(prompts(5))
    assert model.asked == ["word-3", "word-4"]
    assert [reply.value for reply in replies] == [Said(word=f"word-{place}") for place in range(5)]
    assert [reply.usage for reply in replies] == [COST] * 5


def test_asker_of_another_model_or_sampling_asks_again(tmp_path: Path) -> None:
    _asker(Counting(), tmp_path).ask(prompts(1))
    model = Counting()
    _asker(model, tmp_path, named="other").ask(prompts(1))
    _asker(model, tmp_path, sampling=SAMPLING.model_copy(update={"seed": 1})).ask(prompts(1))
    changed = Prompt((Message("system", "Hm."), *prompts(1)[0].messages), Said)
    _asker(model, tmp_path).ask([changed])
    assert model.asked == ["word-0", "word-0", "Hm."]


def test_asker_keeps_what_the_model_is_to_blame_for_until_it_is_forgotten(tmp_path: Path) -> None:
    wrong = {"word-0": "no", "word-1": "late"}
    first = _asker(Counting(wrong), tmp_path).ask(prompts(3))
    assert [reply.failure and reply.failure.reason for reply in first] == [
        "invalid_json",
        "timeout",
        None,
    ]
    model = Counting()
    second = _asker(model, tmp_path).ask(prompts(3))
    assert model.asked == ["word-1"]
    assert second[0].failure is not None
    assert second[0].raw == "no"
    ReplyStore(open_location(str(tmp_path))).forget_failures()
    third = _asker(model, tmp_path).ask(prompts(3))
    assert model.asked == ["word-1", "word-0"]
    assert [reply.failure for reply in third] == [None] * 3


def test_asker_with_a_budget_asks_what_is_within_it_and_keeps_the_replies(tmp_path: Path) -> None:
    # A prompt is estimated at 2 + 2 tokens, and takes 12.
    model, budget = Counting(), Budget(max_tokens=60)
    asker = _asker(model, tmp_path, budget)
    asker.ask(prompts(2))
    with pytest.raises(BudgetError, match="used up"):
        asker.ask(prompts(20))
    num_asked = len(model.asked)
    assert 60 <= 12 * num_asked <= 60 + 8 * 9  # all that were under way at once took 8 more each
    again = Counting()
    _asker(again, tmp_path).ask(prompts(num_asked))
    assert again.asked == []


def test_budget_too_small_for_one_prompt_is_an_error_that_says_so(tmp_path: Path) -> None:
    model = Counting()
    with pytest.raises(BudgetError, match=r"token_budget = 3, which is too small for a single"):
        _asker(model, tmp_path, Budget(max_tokens=3)).ask(prompts(2))
    assert model.asked == []


def test_asker_in_threads_counts_what_it_paid(tmp_path: Path) -> None:
    model, budget = Counting(), Budget(max_tokens=1000)
    asker = _asker(model, tmp_path, budget)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(asker.ask, prompts(8)[shift:]) for shift in range(4)]
        words = [[reply.value.word for reply in call.result()] for call in calls]
    assert words == [[f"word-{place}" for place in range(shift, 8)] for shift in range(4)]
    assert f"{12 * len(model.asked)} tokens are spent" in str(budget.error())


def test_asker_budget_counts_a_reply_of_an_earlier_process_once(tmp_path: Path) -> None:
    _asker(Counting(), tmp_path).ask(prompts(1))
    budget = Budget(max_tokens=1000)
    asker = _asker(Counting(), tmp_path, budget)
    asker.ask(prompts(1))
    asker.count_anew()
    assert asker.ask(prompts(1))[0].usage == COST
    assert "12 tokens are spent" in str(budget.error())

"""A LanguageModel whose replies a test decides."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xrec.config.text import SamplingConfig
from xrec.text import Prompt, RawReply, Usage

Answer = Callable[[Prompt[Any], SamplingConfig], str]


class StubModel:
    """Replies what `answer` says; `asked` are the prompts with their seeds, in order."""

    name = "stub"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[tuple[Prompt[Any], int]] = []

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """Yield a reply to each prompt, the last one first."""
        for index in reversed(range(len(prompts))):
            self.asked.append((prompts[index], sampling.seed))
            yield RawReply(index, self._answer(prompts[index], sampling), Usage(10, 2, 1))

    def num_tokens(self, text: str) -> int:
        """One for each word."""
        return len(text.split())

    def close(self) -> None:
        """Nothing to close."""

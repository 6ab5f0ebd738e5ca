"""What everything above generation knows of it: an engine takes prompts of token ids and yields completions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from xrec.config import DecodingConfig

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """The generated ids of prompt `index`, without the end token; `stop`: it ended by itself, `length`: it was cut."""

    index: int
    token_ids: list[int]
    finish_reason: FinishReason


class Engine(Protocol):
    """Generates text for prompts that may hold collaborative tokens."""

    def generate(self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig) -> Iterator[Completion]:
        """Yield one completion a prompt, as they finish; ValueError for an empty prompt or an id out of range."""
        ...

"""The interface of generation: an engine takes prompts of token ids and yields completions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from xrec.config.llm import DecodingConfig, PromptFailure, TextFailure

FinishReason = Literal["stop", "length", "failed"]


@dataclass(frozen=True)
class Failure:
    """Why a prompt cannot be completed, or why its text cannot be used.

    Other prompts of the same batch are not affected.
    """

    reason: PromptFailure | TextFailure
    message: str


@dataclass(frozen=True)
class Completion:
    """The generated ids of prompt `index`, without the end token.

    `finish_reason` is `stop` if the text ended with an end token or a stop string (the ids of a
    stop string are kept), `length` if it was cut off, and `failed` if there is no text: `failure`
    then says why.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason
    failure: Failure | None = None


def prompt_failure(prompt: Sequence[int], num_ids: int, context_length: int) -> Failure | None:
    """Why no engine can complete `prompt`, for a model with `num_ids` token ids.

    `context_length` is the number of positions that the model can hold. Returns None if nothing
    forbids it; whether the engine's memory holds the prompt is not checked here.
    """
    if not prompt:
        return Failure("empty_prompt", "the prompt is empty; give at least one token")
    if not 0 <= min(prompt) <= max(prompt) < num_ids:
        return Failure(
            "token_out_of_range",
            f"token ids must be in 0..{num_ids - 1}, saw {min(prompt)}..{max(prompt)}",
        )
    if len(prompt) >= context_length:
        return Failure(
            "prompt_too_long",
            f"prompt of {len(prompt)} tokens; "
            f"the model's context of {context_length} leaves no room for a text",
        )
    return None


class Engine(Protocol):
    """Generates text for prompts that may hold collaborative tokens."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        """Yield one completion for each prompt, in the order in which they finish.

        The completion of a prompt that cannot be completed has a `failure`.
        """
        ...

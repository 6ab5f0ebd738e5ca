"""The interface of generation: requests with prompts of token ids come in, texts come out.

An `EngineCore` is what every engine has. `add` takes a request at any time, each `step` computes a
little for all requests at work and returns what they got, `cancel` ends a request early. A step
does nothing but compute: whether a text can be used, and whether another one is drawn in its place,
is decided outside (shared_engine, explainer).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from xrec.config import DecodingConfig, PromptFailure, TextFailure

FinishReason = Literal["stop", "length", "failed", "given"]


class TokenMask(Protocol):
    """Says which tokens may come next in one text, such as the matcher of a grammar.

    A bitmask has one bit for each text token of the vocabulary: token t is bit t % 32 of word
    t // 32. This is the bitmask of xgrammar and llguidance. The end token counts as any other: it
    has to be allowed where the text may end.
    """

    def fill(self, bitmask: Tensor) -> bool:
        """Write the tokens that may come next into `bitmask` (ceil(V / 32),), int32, on the CPU.

        Returns False if all may come; `bitmask` is not read then.
        """

    def accept(self, token_id: int) -> None:
        """The text goes on with `token_id`; not called for an end token."""


@dataclass(frozen=True)
class TextParams:
    """How the text of a prompt is drawn.

    max_new_tokens: most tokens of the text, its end token included.
    temperature: 0 takes the likeliest token each time.
    top_p: share of the probability that sampling draws from.
    seed: the text depends on the seed and the prompt, and on nothing else in the batch.
    banned: tokens that are not in the text.
    constraint: makes the mask of the text, which says what tokens may come next.
    keeps_prompt: what was computed of the prompt is kept after the text has ended, while there is
        room, for another text of it (`after` in `EngineCore.add`). `cancel` releases it.

    Raises ValueError for values out of range.
    """

    max_new_tokens: int = 80
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    banned: frozenset[int] = frozenset()
    constraint: Callable[[], TokenMask] | None = None
    keeps_prompt: bool = False

    def new_mask(self) -> TokenMask | None:
        """Make the mask of a text, or return None if it has none."""
        return None if self.constraint is None else self.constraint()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens}, temperature {self.temperature}, top_p "
                f"{self.top_p}; expected 1 token or more, a temperature of 0 or more, and a top_p "
                "above 0, at most 1"
            )


@dataclass(frozen=True)
class LikelihoodParams:
    """A text that is given: its tokens' likelihoods are asked, and nothing is drawn.

    `continuation` are the token ids that follow the prompt, end token included if it is to count;
    at least one.
    """

    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.continuation:
            raise ValueError("the continuation is empty; give at least one token")


RequestParams = TextParams | LikelihoodParams


def text_params(decoding: DecodingConfig) -> TextParams:
    """The parameters that a job's `decoding` stands for."""
    return TextParams(
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
    )


@dataclass(frozen=True)
class Failure:
    """Why a prompt cannot be completed, or why its text cannot be used.

    Other requests at work are not affected. `words` are those of the text that are to blame, if
    some are.
    """

    reason: PromptFailure | TextFailure
    message: str
    words: tuple[str, ...] = ()


NOT_A_NUMBER = Failure(
    "invalid_logits", "the model's output is not a number; use a dtype with more range"
)


@dataclass(frozen=True)
class Completion:
    """A text that has ended: its ids, without the end token.

    `index` is the request's id, or the prompt's index in a closed list. `finish_reason` is `stop`
    if the text ended with an end token, `length` if it was cut off, `given` for the continuation of
    `LikelihoodParams`, and `failed` if there is no text: `failure` then says why.
    `log_likelihoods` are those of each token of a given continuation, in nats, at most 0.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason
    failure: Failure | None = None
    log_likelihoods: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Advance:
    """What one step did for request `request_id`: the ids of its text so far.

    `completion` is set once the request has ended; its index is the request's id.
    """

    request_id: int
    token_ids: list[int]
    completion: Completion | None = None


@dataclass
class EngineReport:
    """The cost of steps; an engine's core updates it with each of them.

    Tokens of prompts are counted as they were asked for and as they went through the layers, which
    are fewer where prompts share a prefix.
    """

    num_prompt_tokens: int = 0
    num_computed_prompt_tokens: int = 0
    num_decoded_tokens: int = 0
    total_seconds: float = 0.0


class EngineCore(Protocol):
    """Requests at work on one model; to be used by one thread at a time.

    The attributes and `refusal` may be read by other threads; they may be off by one step. `report`
    is what all steps cost since it was last set.
    """

    report: EngineReport

    @property
    def is_idle(self) -> bool:
        """Whether no request is at work or waits."""

    @property
    def num_rows(self) -> int:
        """The number of requests that are computed together."""

    @property
    def max_rows(self) -> int:
        """Most requests that can be computed together."""

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """Why the request cannot be completed, or None if it can."""

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        """Add a request and return its id, which no other request of the core has.

        A request that `refusal` refuses fails in the next step. `after` is an ended request of the
        same prompt with `keeps_prompt` and at least as many tokens. The core continues from what it
        kept of the prompt, or computes it again. Raises whatever `params.constraint` raises.
        """

    def step(self) -> list[Advance]:
        """Compute one step and return what it gave to requests.

        Each request has an `Advance` when its text begins and when it ends. If the step raises an
        error, no request is at work any more, and the core can be used as if it were new.
        """

    def cancel(self, request_id: int) -> None:
        """Stop a request, so that `step` neither computes nor reports it any more.

        Also releases the prompt that was kept of an ended request. Other ids are ignored.
        """


def failed(request_id: int, failure: Failure) -> Advance:
    """The end of a request that cannot be completed."""
    return Advance(request_id, [], Completion(request_id, [], "failed", failure))


def request_failure(
    prompt: Sequence[int],
    params: RequestParams,
    num_ids: int,
    num_text_tokens: int,
    context_length: int,
) -> Failure | None:
    """Why no engine can complete a request, for a model with `num_ids` token ids.

    The first `num_text_tokens` of them are text. `context_length` is the number of positions that
    the model can hold. Returns None if nothing forbids it; whether the engine's memory holds the
    request is not checked here.
    """
    given = params.continuation if isinstance(params, LikelihoodParams) else ()
    banned = params.banned if isinstance(params, TextParams) else ()
    if not prompt:
        return Failure("empty_prompt", "the prompt is empty; give at least one token")
    for what, ids, stop in (
        ("token ids", prompt, num_ids),
        ("a continuation is text: its token ids", given, num_text_tokens),
        ("banned tokens are text: their ids", banned, num_text_tokens),
    ):
        if ids and not 0 <= min(ids) <= max(ids) < stop:
            return Failure(
                "token_out_of_range", f"{what} must be in 0..{stop - 1}, saw {min(ids)}..{max(ids)}"
            )
    if len(prompt) + max(1, len(given)) > context_length:
        return Failure(
            "prompt_too_long",
            f"prompt of {len(prompt)} tokens; the model's context of {context_length} leaves no "
            f"room for {f'the {len(given)} tokens of the continuation' if given else 'a text'}",
        )
    return None

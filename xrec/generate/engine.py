"""The interface of engines: requests with prompts of token IDs go in, texts come out.

Every engine has an `EngineCore`. `add` accepts a request at any time, each `step` advances all
running requests and returns their progress, and `cancel` ends a request early. The core only
computes. Whether a text is usable, and whether to draw another one, is decided outside
(shared_engine, explainer).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from xrec.config import DecodingConfig
from xrec.errors import Failure

FinishReason = Literal["stop", "length", "failed", "given"]


class TokenMask(Protocol):
    """The tokens that may come next in one text, such as the matcher of a grammar.

    A bitmask has one bit for each text token of the vocabulary: token t is bit t % 32 of word
    t // 32, as in xgrammar and llguidance. The end token has a bit too, which must be set where the
    text may end.
    """

    def fill(self, bitmask: Tensor) -> bool:
        """Write the allowed tokens to `bitmask` (ceil(V / 32),), int32, on the CPU.

        Return False if all tokens are allowed; `bitmask` is then not read.
        """

    def accept(self, token_id: int) -> None:
        """Continue the text with `token_id`; not called for an end token."""


@dataclass(frozen=True)
class TextParams:
    """The parameters of a text.

    max_new_tokens: maximum number of tokens, including the end token.
    temperature: 0 always takes the likeliest token.
    top_p: share of the probability from which tokens are sampled.
    seed: the text depends on the seed and the prompt, but not on the rest of the batch.
    banned: tokens that must not be in the text.
    constraint: makes the mask of the text, if any.
    user_id: the user of the prompt, for what keeps replies of endpoints.
    keeps_prompt: whether to keep the prompt's KV cache after the text has ended, while there is
        room, for another text (`after` in `EngineCore.add`). `cancel` releases it.

    Raises ValueError for values out of range.
    """

    max_new_tokens: int = 80
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    banned: frozenset[int] = frozenset()
    constraint: Callable[[], TokenMask] | None = None
    user_id: str = ""
    keeps_prompt: bool = False

    def new_mask(self) -> TokenMask | None:
        """Make the mask of a text, or return None if it has none."""
        return None if self.constraint is None else self.constraint()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens}, temperature {self.temperature}, top_p "
                f"{self.top_p}; expected at least 1 token, a temperature of at least 0 and a top_p "
                "above 0 and at most 1"
            )


@dataclass(frozen=True)
class LikelihoodParams:
    """The parameters of a request for the likelihoods of a given text.

    continuation: the token IDs that follow the prompt, at least one. Include the end token if its
        likelihood is needed.
    """

    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.continuation:
            raise ValueError("the continuation is empty; give at least one token")


RequestParams = TextParams | LikelihoodParams


def text_params(decoding: DecodingConfig) -> TextParams:
    """Return the parameters for a job's `decoding`."""
    return TextParams(
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
    )


NOT_A_NUMBER = Failure(
    "invalid_logits", "the model's output is not a number; use a dtype with a larger range"
)


@dataclass(frozen=True)
class Completion:
    """A text that has ended: its token IDs, without the end token.

    index: the request's ID, or the prompt's index in a list (`SharedEngine.complete`).
    finish_reason: `stop` after an end token, `length` if the text was cut off, `given` for a
        continuation in `LikelihoodParams`, and `failed` if there is no text because of `failure`.
    log_likelihoods: those of the tokens of a given continuation, in nats, at most 0.
    num_tokens: numbers of tokens of the prompt and the text, if an endpoint counted them with its
        own tokenizer.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason
    failure: Failure | None = None
    log_likelihoods: tuple[float, ...] | None = None
    num_tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Advance:
    """The progress of a request after a step: the token IDs of its text so far.

    completion: set once the request has ended; its index is the request's ID.
    """

    request_id: int
    token_ids: list[int]
    completion: Completion | None = None


@dataclass
class EngineReport:
    """The cost of steps; the core updates it in each step.

    Fewer tokens of prompts are computed than requested if prompts share a prefix.
    """

    num_prompt_tokens: int = 0
    num_computed_prompt_tokens: int = 0
    num_decoded_tokens: int = 0
    total_seconds: float = 0.0


class EngineCore(Protocol):
    """An engine's requests and their model; to be used by one thread at a time.

    Other threads may read the attributes, which may be out of date by a step, and call `refusal`.

    report: the cost of all steps since it was last set.
    """

    report: EngineReport

    @property
    def is_idle(self) -> bool:
        """Whether there are no requests."""

    @property
    def num_rows(self) -> int:
        """Number of requests that are computed together now."""

    @property
    def max_rows(self) -> int:
        """Maximum number of requests that are computed together."""

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """Return why the request cannot be completed, or None if it can."""

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        """Add a request and return its ID, which is unique in the core.

        A request that `refusal` refuses fails in the next step. Raises what `params.constraint`
        raises.

        after: an ended request with the same prompt, with `keeps_prompt` and at least as many
            tokens. The core reuses what it kept of the prompt, or computes it again.
        """

    def step(self) -> list[Advance]:
        """Compute one step and return the advances of requests.

        Each request has an `Advance` when its text starts and when it ends. If the step raises an
        error, all requests are dropped, and the core can be used as if it were new.
        """

    def cancel(self, request_id: int) -> None:
        """Drop a request, so that `step` no longer computes or reports it.

        If the request has ended, release its kept prompt. Unknown IDs are ignored.
        """


def failed(request_id: int, failure: Failure) -> Advance:
    """Return the end of a request that cannot be completed."""
    return Advance(request_id, [], Completion(request_id, [], "failed", failure))


def request_failure(
    prompt: Sequence[int],
    params: RequestParams,
    num_ids: int,
    num_text_tokens: int,
    context_length: int,
) -> Failure | None:
    """Return why no engine can complete a request, or None. The engine's memory is not checked.

    num_ids: number of token IDs of the model, of which the first `num_text_tokens` are text.
    context_length: maximum number of positions of the model.
    """
    given = params.continuation if isinstance(params, LikelihoodParams) else ()
    banned = params.banned if isinstance(params, TextParams) else ()
    if not prompt:
        return Failure("empty_prompt", "the prompt is empty; give at least one token")
    for what, ids, stop in (
        ("token IDs of the prompt", prompt, num_ids),
        ("token IDs of the continuation", given, num_text_tokens),
        ("banned token IDs", banned, num_text_tokens),
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

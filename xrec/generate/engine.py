"""The interface of generation: requests with prompts of token ids come in, texts come out.

A `Run` is what every engine is. `add` takes a request at any time, each `step` computes a little
for all requests at work and returns what they got, `cancel` ends a request early. A list of
prompts, a stream of chunks and the endpoint are its callers (shared_run, run_thread).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from torch import Tensor

from xrec.config.decoding import DecodingConfig, TextFailure
from xrec.config.engine import PromptFailure
from xrec.generate.engine_report import EngineReport

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
        ...

    def accept(self, token_id: int) -> None:
        """The text goes on with `token_id`; not called for an end token."""
        ...


@dataclass(frozen=True)
class Grammar:
    """What a text must match, in a form that an engine which compiles grammars itself can take."""

    kind: Literal["json_schema", "regex", "ebnf"]
    source: str


class Constraint(Protocol):
    """What the texts of a request must be."""

    @property
    def grammar(self) -> Grammar | None:
        """For engines that compile grammars themselves; None if only `start` can say it."""
        ...

    def start(self) -> TokenMask:
        """The mask of one text; it is called once for each text of the request."""
        ...


@dataclass(frozen=True)
class Retry:
    """What follows a text that cannot be used: one more of the same prompt, drawn otherwise.

    The prompt is not computed again. The text that is refused gets no completion, the second one
    does, whatever it is.

    is_refused: told the first text, within a step of the run, which it must not use; its index is
        the request's id.
    """

    is_refused: "Callable[[Completion], bool]"
    temperature: float
    seed: int


@dataclass(frozen=True)
class TextParams:
    """How the texts of one prompt are drawn.

    max_new_tokens: most tokens of a text, its end token included.
    temperature: 0 takes the likeliest token each time.
    top_p: share of the probability that sampling draws from.
    seed: text number n of a prompt depends on the seed, the prompt and n, and on nothing else.
    stop: strings that end a text.
    stop_token_ids: tokens that end a text, beside the engine's own.
    num_texts: how many texts are drawn; the prompt is computed once for all of them.
    constraint: which tokens may come next.
    is_injected: if false, vectors of users and items enter by the prompt and not by the layers.
    retry: what is done if the text is refused, for one text.

    Raises ValueError for values out of range, for several texts that would all be the same, and for
    several texts with a retry.
    """

    max_new_tokens: int = 80
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    num_texts: int = 1
    constraint: Constraint | None = None
    is_injected: bool = True
    retry: Retry | None = None

    @property
    def second(self) -> "TextParams":
        """How the second text of params with a retry is drawn."""
        assert self.retry is not None
        temperature, seed = self.retry.temperature, self.retry.seed
        return replace(self, temperature=temperature, seed=seed, retry=None)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_texts < 1:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens}, num_texts {self.num_texts}; "
                "expected 1 or more of both"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature {self.temperature}, top_p {self.top_p}; "
                "expected a temperature of 0 or more and a top_p above 0, at most 1"
            )
        if self.num_texts > 1 and not self.temperature:
            raise ValueError(
                f"num_texts {self.num_texts} with temperature 0: all texts would be the same; "
                "set a temperature"
            )
        if self.num_texts > 1 and self.retry is not None:
            raise ValueError(f"num_texts {self.num_texts} with a retry: only one text has one")


@dataclass(frozen=True)
class LikelihoodParams:
    """A text that is given: its tokens' likelihoods are asked, and nothing is drawn.

    `continuation` are the token ids that follow the prompt, end token included if it is to count;
    at least one.
    """

    continuation: tuple[int, ...]
    is_injected: bool = True

    def __post_init__(self) -> None:
        if not self.continuation:
            raise ValueError("the continuation is empty; give at least one token")


RequestParams = TextParams | LikelihoodParams


def num_texts(params: RequestParams) -> int:
    """The number of texts that a request asks for; a continuation that is given is one."""
    return params.num_texts if isinstance(params, TextParams) else 1


def text_params(decoding: DecodingConfig, *, is_injected: bool = True) -> TextParams:
    """The parameters that a job's `decoding` stands for."""
    return TextParams(
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        stop=decoding.stop,
        is_injected=is_injected,
    )


@dataclass(frozen=True)
class Failure:
    """Why a prompt cannot be completed, or why its text cannot be used.

    Other requests at work are not affected.
    """

    reason: PromptFailure | TextFailure
    message: str


@dataclass(frozen=True)
class Completion:
    """One text that has ended: its ids, without the end token.

    `index` is the request's id, or the prompt's index in a closed list. `number` counts the texts
    of one request from 0. `finish_reason` is `stop` if the text ended with an end token or a stop
    string (the ids of a stop string are kept), `length` if it was cut off, `given` for the
    continuation of `LikelihoodParams`, and `failed` if there is no text: `failure` then says why.
    `log_likelihoods` are those of each token of a given continuation, in nats, at most 0.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason
    failure: Failure | None = None
    number: int = 0
    log_likelihoods: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Advance:
    """What one step did for text `number` of request `request_id`: the ids of the text so far.

    `completion` is set once the text has ended; its index is the request's id. A request has ended
    when all of its texts have: each gets a completion, also where the whole request fails.
    """

    request_id: int
    token_ids: list[int]
    completion: Completion | None = None
    number: int = 0


class Run(Protocol):
    """Requests at work on one model; to be used by one thread at a time.

    The attributes and `refusal` may be read by other threads; they may be off by one step.
    """

    @property
    def is_idle(self) -> bool:
        """Whether no request is at work or waits."""
        ...

    @property
    def num_rows(self) -> int:
        """The number of texts that are computed together."""
        ...

    @property
    def num_waiting(self) -> int:
        """The number of texts that wait for a row."""
        ...

    @property
    def max_rows(self) -> int:
        """Most texts that can be computed together."""
        ...

    @property
    def key_value_bytes(self) -> int:
        """Bytes that are set aside for keys and values."""
        ...

    @property
    def report(self) -> EngineReport:
        """What all steps since the last `take_report` cost."""
        ...

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """Why the request cannot be completed, or None if it can."""
        ...

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        """Add a request and return its id, which no other request of the run has.

        A request that `refusal` refuses fails in the next step.
        """
        ...

    def step(self) -> list[Advance]:
        """Compute one step; returns an `Advance` for each text that got a token or ended."""
        ...

    def cancel(self, request_id: int) -> None:
        """Stop a request, so that `step` neither computes nor reports it any more.

        An id of a request that has ended, or that never existed, is ignored.
        """
        ...

    def take_report(self) -> EngineReport:
        """`report`, which then begins anew."""
        ...


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
    """Generates text for prompts that may hold collaborative tokens.

    Threads may call it at the same time: their prompts share one run.
    """

    @property
    def run(self) -> Run:
        """What computes. A caller that steps it itself must be its only caller."""
        ...

    def complete(
        self, requests: Sequence[tuple[Sequence[int], RequestParams]]
    ) -> Iterator[Completion]:
        """Yield the completions of a closed list of requests, in the order in which they finish.

        `Completion.index` is the place in the list.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: DecodingConfig,
        is_refused: Callable[[Completion], bool] | None = None,
    ) -> Iterator[Completion]:
        """Yield one completion for each prompt, in the order in which they finish.

        The completion of a prompt that cannot be completed has a `failure`. In the place of a text
        that `is_refused` refuses comes one that is drawn as `decoding.second_try` says, if it says
        anything; the prompt is not computed again. Any thread that waits for a completion may be
        the one that calls `is_refused`.
        """
        ...

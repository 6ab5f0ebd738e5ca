"""What is at work: requests, and the prefixes that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xrec.generate.builtin.kv_cache import Block
from xrec.generate.engine import (
    FinishReason,
    LikelihoodParams,
    RequestParams,
    Retry,
    TextParams,
    TokenMask,
)


@dataclass(frozen=True)
class Stopping:
    """The rules by which a text ends: an end token, a stop string, or its length.

    `decode` gives the text of token ids.
    """

    token_ids: frozenset[int]
    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]
    max_new_tokens: int

    def reason(self, generated: list[int], num_left: int) -> FinishReason | None:
        """Why the text ends after its last token, or None if it goes on.

        `num_left` is the number of further tokens that the model's context can hold.
        """
        if generated[-1] in self.token_ids:
            return "stop"
        if self.strings:
            text = self.decode(generated)
            if any(string in text for string in self.strings):
                return "stop"
        return "length" if len(generated) == self.max_new_tokens or not num_left else None

    def without_end(self, generated: list[int]) -> list[int]:
        """The text's ids without the end token."""
        return generated[:-1] if generated[-1] in self.token_ids else generated


@dataclass(eq=False)
class Prefix:
    """The beginning that some prompts share: how many requests wait, and those at work.

    The KV cache of its first `num_computed` tokens is in slot `slot` of `block`, which is
    None as long as the prefix has no slot, and for an empty prefix. If `is_broken`, they must not
    be used for other prefixes.
    """

    token_ids: list[int]
    is_injected: bool
    num_waiting: int = 0
    requests: "list[Request]" = field(default_factory=list)
    block: "PrefixBlock | None" = None
    slot: int = -1
    num_computed: int = 0
    is_broken: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether all of it is in the KV cache."""
        return self.num_computed == len(self.token_ids)

    @property
    def num_members(self) -> int:
        """The number of requests that have it, at work or not."""
        return self.num_waiting + len(self.requests)


@dataclass(eq=False)
class Request:
    """A prompt, what is asked of it, and how far it has come.

    From `enter` on, `token_ids` are what is given after the prefix (the rest of the prompt, and a
    continuation but for its last token), and then the text. The KV cache of the first
    `num_computed` of them is in slot `slot` of `block`, which is None while the request waits. The
    slot has to hold `num_positions`. `params` become those of the second text if the first one is
    refused. `has_vectors` says whether the vectors of the prompt's users and items are kept for it.
    """

    request_id: int
    prompt: list[int]
    params: RequestParams
    stopping: Stopping
    prefix: Prefix = field(init=False)
    token_ids: list[int] = field(init=False)
    num_given: int = field(init=False)
    num_positions: int = field(init=False)
    block: "RequestBlock | None" = None
    slot: int = -1
    num_computed: int = 0
    is_second: bool = False
    has_vectors: bool = False
    mask: TokenMask | None = None
    uniform: list[float] | None = None
    log_likelihoods: list[float] = field(default_factory=list)

    def enter(self, prefix: Prefix, context_length: int) -> None:
        """Wait or begin with `prefix`, which the prompt begins with."""
        num_positions = positions_needed(self.prompt, self.params, context_length)
        self.prefix = prefix
        self.token_ids = [*self.prompt[len(prefix.token_ids) :], *self.given[:-1]]
        self.num_given = len(self.token_ids)
        self.num_positions = num_positions - len(prefix.token_ids)

    @property
    def retry(self) -> Retry | None:
        """What is done if its text is refused; None for a second text."""
        return self.params.retry if isinstance(self.params, TextParams) else None

    @property
    def given(self) -> tuple[int, ...]:
        """The continuation whose likelihood is asked; empty if a text is to be written."""
        return self.params.continuation if isinstance(self.params, LikelihoodParams) else ()

    @property
    def num_rest(self) -> int:
        """How many of the tokens that are given are the prompt's."""
        return self.num_given - max(0, len(self.given) - 1)

    @property
    def is_computed(self) -> bool:
        """Whether all that is given is in the KV cache."""
        return self.num_computed >= self.num_given or self.is_second

    @property
    def generated(self) -> list[int]:
        """The text so far."""
        return self.token_ids[self.num_given :]

    def begin(self) -> None:
        """Start the mask of the text, if it has one."""
        if isinstance(self.params, TextParams) and self.params.constraint is not None:
            self.mask = self.params.constraint()

    def begin_again(self) -> None:
        """Take the text back and start the second one, by the KV cache of what is given.

        That of the last token is computed again, since its logits are needed.
        """
        assert isinstance(self.params, TextParams)
        self.is_second, self.params = True, self.params.second
        del self.token_ids[self.num_given :]
        self.num_computed = self.num_given - 1
        self.uniform = None
        self.begin()


@dataclass(eq=False)
class RequestBlock(Block):
    """Request i is in slot i; the prefixes of all are in `prefix_block`, or all are empty."""

    prefix_block: "PrefixBlock | None" = None
    requests: list[Request] = field(default_factory=list)


@dataclass(eq=False)
class PrefixBlock(Block):
    """Prefixes by slot. `contents` are the ids whose KV cache is there, in use or not.

    Beside the ids stands whether the layers got the vectors of users and items.
    """

    prefixes: dict[int, Prefix] = field(default_factory=dict)
    contents: dict[int, tuple[list[int], bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of a prefix or a request, which are computed in one pass."""

    sequence: Prefix | Request
    start: int
    stop: int


def positions_needed(prompt: Sequence[int], params: RequestParams, context_length: int) -> int:
    """The positions that a prompt and its text need.

    The last token needs none, because no later token attends to it.
    """
    num_new = (
        len(params.continuation) if isinstance(params, LikelihoodParams) else params.max_new_tokens
    )
    return min(len(prompt) + num_new - 1, context_length)

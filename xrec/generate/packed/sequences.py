"""What is at work: requests, the rows that are their texts, and the prefixes that rows share."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xrec.generate.engine import (
    Failure,
    FinishReason,
    LikelihoodParams,
    RequestParams,
    Retry,
    TextParams,
    TokenMask,
    num_texts,
)
from xrec.generate.packed.arena import Slab


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
class Request:
    """A prompt and what is asked of it.

    `num_uncomputed` is the number of its texts whose prompt is not computed yet.
    """

    request_id: int
    prompt: list[int]
    params: RequestParams
    stopping: Stopping
    num_uncomputed: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_uncomputed = self.num_texts

    @property
    def num_texts(self) -> int:
        """The number of its texts."""
        return num_texts(self.params)

    @property
    def retry(self) -> Retry | None:
        """What is done if its text is refused."""
        return self.params.retry if isinstance(self.params, TextParams) else None

    @property
    def given(self) -> tuple[int, ...]:
        """The continuation whose likelihood is asked; empty if texts are to be written."""
        return self.params.continuation if isinstance(self.params, LikelihoodParams) else ()


@dataclass(eq=False)
class RowSlab(Slab):
    """Row i is in slot i; the prefixes of all rows are in `prefix_slab`, or all are empty."""

    prefix_slab: "PrefixSlab | None" = None
    rows: "list[Row]" = field(default_factory=list)


@dataclass(eq=False)
class PrefixSlab(Slab):
    """Prefixes by slot. `contents` are the ids whose keys and values are there, in use or not.

    Beside the ids stands whether the layers got the vectors of users and items.
    """

    prefixes: "dict[int, Prefix]" = field(default_factory=dict)
    contents: dict[int, tuple[list[int], bool]] = field(default_factory=dict)


@dataclass(eq=False)
class Prefix:
    """The beginning that some prompts share: the rows that wait, and the rows at work.

    The keys and values of its first `num_computed` tokens are in slot `slot` of `slab`, which is
    None as long as the prefix has no slot, and for an empty prefix. If `is_broken`, they must not
    be used for other prefixes.
    """

    token_ids: list[int]
    is_injected: bool
    waiting: "deque[Row]" = field(default_factory=deque)
    rows: "list[Row]" = field(default_factory=list)
    slab: PrefixSlab | None = None
    slot: int = -1
    num_computed: int = 0
    is_broken: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether all of it has keys and values."""
        return self.num_computed == len(self.token_ids)

    @property
    def num_members(self) -> int:
        """The number of rows that have it, at work or not."""
        return len(self.waiting) + len(self.rows)


@dataclass(eq=False)
class Row:
    """One text of a request.

    `token_ids` are what is given after the prefix (the rest of the prompt, and a continuation but
    for its last token), and then the text. Keys and values of the first `num_computed` of them are
    in slot `slot` of `slab`, which is None while the row waits. The slot has to hold
    `num_positions`. `params` are the request's, or those of its second try if `is_second`.
    """

    request: Request
    number: int
    prefix: Prefix
    token_ids: list[int]
    num_given: int
    num_positions: int
    slab: RowSlab | None = None
    slot: int = -1
    num_computed: int = 0
    is_second: bool = False
    params: RequestParams = field(init=False)
    mask: TokenMask | None = None
    uniform: list[float] | None = None
    log_likelihoods: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.params = self.request.params

    @property
    def num_rest(self) -> int:
        """How many of the tokens that are given are the prompt's."""
        return self.num_given - max(0, len(self.request.given) - 1)

    @property
    def is_computed(self) -> bool:
        """Whether all that is given has keys and values."""
        return self.num_computed >= self.num_given or self.is_second

    def begin(self) -> None:
        """Start the mask of the text, if it has one."""
        if isinstance(self.params, TextParams) and self.params.constraint is not None:
            self.mask = self.params.constraint.start()

    def begin_again(self) -> None:
        """Take the text back and start the second one, by the keys and values of what is given.

        Those of the last token are computed again, since its logits are needed.
        """
        assert isinstance(self.params, TextParams)
        self.is_second, self.params = True, self.params.second
        del self.token_ids[self.num_given :]
        self.num_computed = self.num_given - 1
        self.uniform = None
        self.begin()

    @property
    def generated(self) -> list[int]:
        """The text so far."""
        return self.token_ids[self.num_given :]


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of a prefix or a row, which are computed in one pass."""

    sequence: Prefix | Row
    start: int
    stop: int


def row_of(request: Request, number: int, prefix: Prefix, context_length: int) -> Row:
    """The row of text `number` of a request whose prompt begins with `prefix`."""
    given = [*request.prompt[len(prefix.token_ids) :], *request.given[:-1]]
    num_positions = positions_needed(request.prompt, request.params, context_length)
    return Row(request, number, prefix, given, len(given), num_positions - len(prefix.token_ids))


def positions_needed(prompt: Sequence[int], params: RequestParams, context_length: int) -> int:
    """The positions that a prompt and one text need.

    The last token needs none, because no later token attends to it.
    """
    num_new = (
        len(params.continuation) if isinstance(params, LikelihoodParams) else params.max_new_tokens
    )
    return min(len(prompt) + num_new - 1, context_length)


def continuation_failure(
    prompt: Sequence[int], continuation: Sequence[int], num_text_tokens: int, context_length: int
) -> Failure | None:
    """Why the likelihood of `continuation` cannot be computed, or None if it can."""
    if not 0 <= min(continuation) <= max(continuation) < num_text_tokens:
        return Failure(
            "token_out_of_range",
            f"token ids of a continuation must be in 0..{num_text_tokens - 1}, "
            f"saw {min(continuation)}..{max(continuation)}",
        )
    if len(prompt) + len(continuation) > context_length:
        return Failure(
            "prompt_too_long",
            f"prompt of {len(prompt)} tokens and continuation of {len(continuation)}; "
            f"the model's context holds {context_length}",
        )
    return None

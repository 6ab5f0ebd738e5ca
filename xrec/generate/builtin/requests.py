"""What is at work: requests, and the beginnings that they share.

A prefix is computed once for all requests that have it. In lexicographic order, prompts with a
common beginning are neighbours. A node is a run of neighbours, and its prefix is what the whole run
shares. The run is cut wherever two neighbours share fewer than `LEAST_GAIN` tokens more than this
prefix. Pieces of two and more prompts are nodes again; the single prompts that are left form a
group with the node's prefix. If the user's texts come before the item's, all pairs of one user form
a group, and users with one pair each share the instruction.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xrec.generate.builtin.kv_cache import Block
from xrec.generate.engine import (
    FinishReason,
    LikelihoodParams,
    RequestParams,
    TextParams,
    TokenMask,
)

LEAST_GAIN = 16
"""A longer prefix gets a group of its own if it saves at least as many tokens for each member."""


@dataclass(eq=False)
class Prefix:
    """The beginning that some prompts share: how many requests wait, and those at work.

    The KV cache of its first `num_computed` tokens is in slot `slot` of `block`, which is
    None as long as the prefix has no slot, and for an empty prefix. If `is_broken`, what is in the
    slot must not be used for other prefixes.
    """

    token_ids: list[int]
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
    slot has to hold `num_positions`. Once a text has ended that `keeps_prompt`, the request stays
    in its slot without it, until another text of the prompt begins.
    """

    request_id: int
    prompt: list[int]
    params: RequestParams
    stop_token_ids: frozenset[int]
    mask: TokenMask | None = None
    prefix: Prefix = field(init=False)
    token_ids: list[int] = field(init=False)
    num_given: int = field(init=False)
    num_positions: int = field(init=False)
    block: "RequestBlock | None" = None
    slot: int = -1
    num_computed: int = 0
    is_again: bool = False
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
    def text_params(self) -> TextParams:
        """`params` of a request whose text is to be written."""
        assert isinstance(self.params, TextParams)
        return self.params

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
        return self.num_computed >= self.num_given or self.is_again

    @property
    def generated(self) -> list[int]:
        """The text so far."""
        return self.token_ids[self.num_given :]

    def finish_reason(self, context_length: int) -> FinishReason | None:
        """Why the text ends after its last token, or None if it goes on."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        num_generated = len(self.token_ids) - self.num_given
        is_full = len(self.prompt) + num_generated == context_length
        return "length" if num_generated == self.text_params.max_new_tokens or is_full else None

    def keep_prompt(self) -> None:
        """Take the text back, and keep the KV cache of the prompt."""
        self.is_again = True
        del self.token_ids[self.num_given :]
        self.num_computed = self.num_given - 1

    def begin_again(self, request_id: int, params: RequestParams, mask: TokenMask | None) -> None:
        """Start the next text, by the KV cache that was kept.

        That of the prompt's last token is computed again, since its logits are needed.
        """
        self.request_id, self.params, self.mask = request_id, params, mask
        self.uniform = None


@dataclass(eq=False)
class RequestBlock(Block):
    """Request i is in slot i; the prefixes of all are in `prefix_block`, or all are empty."""

    prefix_block: "PrefixBlock | None" = None
    requests: list[Request] = field(default_factory=list)


@dataclass(eq=False)
class PrefixBlock(Block):
    """Prefixes by slot. `contents` are the ids whose KV cache is there, in use or not."""

    prefixes: dict[int, Prefix] = field(default_factory=dict)
    contents: dict[int, list[int]] = field(default_factory=dict)


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


def group_by_prefix(
    prompts: Sequence[list[int]], max_members: int
) -> list[tuple[list[int], list[int]]]:
    """Groups of at most `max_members`: the prefix, and the indices of the prompts that have it.

    The prefix never includes the last token of a member. Groups with similar beginnings follow
    each other.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    shared = [
        shared_length(prompts[left], prompts[right]) for left, right in itertools.pairwise(order)
    ]
    return [
        (prompts[members[0]][: min(length, *(len(prompts[one]) - 1 for one in members))], members)
        for places, length in _nodes(shared, 0, len(order))
        for start in range(0, len(places), max_members)
        for members in [[order[place] for place in places[start : start + max_members]]]
    ]


def shared_length(left: list[int], right: list[int]) -> int:
    """The number of tokens at the beginning that two lists have in common."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _nodes(shared: Sequence[int], start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """The places and the prefix length of each group among the places `start` to `stop`.

    A place is an index into the ordered prompts, and `shared[i]` is the number of tokens that the
    prompts at places i and i + 1 share.
    """
    if stop - start <= 1:
        yield from [([start], 0)] if stop > start else []
        return
    length = min(shared[start : stop - 1])
    cuts = [
        start,
        *(place + 1 for place in range(start, stop - 1) if shared[place] < length + LEAST_GAIN),
        stop,
    ]
    runs = list(itertools.pairwise(cuts))
    for first, last in runs:
        if last - first > 1:
            yield from _nodes(shared, first, last)
    alone = [first for first, last in runs if last - first == 1]
    if alone:
        yield alone, length

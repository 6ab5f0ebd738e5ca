"""Requests, and the prefixes that they share.

A prefix is computed once for all requests that start with it. In lexicographic order, prompts with
a common prefix are neighbors. A node is a run of neighbors, and its prefix is what the whole run
shares. The run is cut wherever two neighbors share fewer than `LEAST_GAIN` tokens beyond this
prefix. Pieces of two or more prompts become nodes in turn; the remaining single prompts form a
group with the node's prefix. If the user's texts come before the item's, all pairs of a user form a
group, and users with one pair share the instruction.
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
"""Tokens per member that a longer prefix must save to get its own group."""


@dataclass(eq=False)
class Prefix:
    """The tokens that some prompts start with, and the requests that share them.

    The KV cache of its first `num_computed` tokens is in slot `slot` of `block`, which is None if
    the prefix has no slot yet or is empty. If `is_broken`, the content of the slot must not be
    reused for other prefixes.

    requests: those that have a slot. num_waiting: the number of the others.
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
        """Whether the whole prefix is in the KV cache."""
        return self.num_computed == len(self.token_ids)

    @property
    def num_members(self) -> int:
        """Number of requests that share the prefix, waiting or not."""
        return self.num_waiting + len(self.requests)


@dataclass(eq=False)
class Request:
    """A prompt, the parameters of its text, and its progress.

    After `enter`, `token_ids` are the tokens after the prefix: the rest of the prompt, the
    continuation without its last token if there is one, and then the text. The KV cache of the
    first `num_computed` of them is in slot `slot` of `block`, which is None while the request
    waits. The slot needs `num_positions`. After a text with `keeps_prompt` has ended, the request
    keeps its slot, without the text, until another text of the prompt starts.
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
        """Set the prefix, with which the prompt starts, and the fields that depend on it."""
        num_positions = positions_needed(self.prompt, self.params, context_length)
        self.prefix = prefix
        self.token_ids = [*self.prompt[len(prefix.token_ids) :], *self.given[:-1]]
        self.num_given = len(self.token_ids)
        self.num_positions = num_positions - len(prefix.token_ids)

    @property
    def text_params(self) -> TextParams:
        """The `params` of a request for a text."""
        assert isinstance(self.params, TextParams)
        return self.params

    @property
    def given(self) -> tuple[int, ...]:
        """The continuation whose likelihood is requested; empty for a text."""
        return self.params.continuation if isinstance(self.params, LikelihoodParams) else ()

    @property
    def num_rest(self) -> int:
        """Number of given tokens that belong to the prompt."""
        return self.num_given - max(0, len(self.given) - 1)

    @property
    def is_computed(self) -> bool:
        """Whether all given tokens are in the KV cache."""
        return self.num_computed >= self.num_given or self.is_again

    @property
    def generated(self) -> list[int]:
        """The tokens of the text so far."""
        return self.token_ids[self.num_given :]

    def finish_reason(self, context_length: int) -> FinishReason | None:
        """Return why the text ends after its last token, or None if it continues."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        num_generated = len(self.token_ids) - self.num_given
        is_full = len(self.prompt) + num_generated == context_length
        return "length" if num_generated == self.text_params.max_new_tokens or is_full else None

    def keep_prompt(self) -> None:
        """Remove the text, and keep the KV cache of the prompt."""
        self.is_again = True
        del self.token_ids[self.num_given :]
        self.num_computed = self.num_given - 1

    def begin_again(self, request_id: int, params: RequestParams, mask: TokenMask | None) -> None:
        """Start the next text with the KV cache that was kept.

        The prompt's last token is computed again, because its logits are needed.
        """
        self.request_id, self.params, self.mask = request_id, params, mask
        self.uniform = None


@dataclass(eq=False)
class RequestBlock(Block):
    """A block in which request i has slot i.

    The prefixes of all requests are in `prefix_block`; if it is None, all are empty.
    """

    prefix_block: "PrefixBlock | None" = None
    requests: list[Request] = field(default_factory=list)


@dataclass(eq=False)
class PrefixBlock(Block):
    """A block of prefixes, by slot.

    contents: the token IDs whose KV cache is in each slot, in use or not.
    """

    prefixes: dict[int, Prefix] = field(default_factory=dict)
    contents: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of a prefix or a request, to be computed in one pass."""

    sequence: Prefix | Request
    start: int
    stop: int


def positions_needed(prompt: Sequence[int], params: RequestParams, context_length: int) -> int:
    """Return the number of positions that a prompt and its text need.

    The last token needs none, because no later token attends to it.
    """
    num_new = (
        len(params.continuation) if isinstance(params, LikelihoodParams) else params.max_new_tokens
    )
    return min(len(prompt) + num_new - 1, context_length)


def group_by_prefix(
    prompts: Sequence[list[int]], max_members: int
) -> list[tuple[list[int], list[int]]]:
    """Return groups of at most `max_members`: the prefix, and the indices of its prompts.

    The prefix never includes the last token of a member. Groups with similar prefixes are adjacent.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    shared = [
        shared_length(prompts[left], prompts[right]) for left, right in itertools.pairwise(order)
    ]
    return [
        (prompts[members[0]][: min(length, *(len(prompts[i]) - 1 for i in members))], members)
        for ranks, length in _nodes(shared, 0, len(order))
        for start in range(0, len(ranks), max_members)
        for members in [[order[rank] for rank in ranks[start : start + max_members]]]
    ]


def shared_length(left: list[int], right: list[int]) -> int:
    """Return the length of the longest common prefix of two lists."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _nodes(shared: Sequence[int], start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """Yield the ranks and the prefix length of each group among the ranks `start` to `stop`.

    A rank is an index into the sorted prompts, and `shared[i]` is the number of tokens that the
    prompts with ranks i and i + 1 share.
    """
    if stop - start <= 1:
        yield from [([start], 0)] if stop > start else []
        return
    length = min(shared[start : stop - 1])
    cuts = [
        start,
        *(rank + 1 for rank in range(start, stop - 1) if shared[rank] < length + LEAST_GAIN),
        stop,
    ]
    runs = list(itertools.pairwise(cuts))
    for first, last in runs:
        if last - first > 1:
            yield from _nodes(shared, first, last)
    alone = [first for first, last in runs if last - first == 1]
    if alone:
        yield alone, length

"""The scheduler and the slots without a model: nothing is lost or mixed up.

In place of keys, the KV cache holds the ids of the tokens themselves.
"""

import random
from itertools import pairwise

import pytest
import torch

from tests.xrec.generate.builtin.toy_cores import V
from xrec.generate.builtin.kv_cache import KVCache, KVShape
from xrec.generate.builtin.requests import Prefix, Request, Span
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.builtin.slots import Slots
from xrec.generate.engine import TextParams

CONTEXT = 400
SHAPE = KVShape(1, 1, 1, torch.float32, torch.device("cpu"))


class Simulation:
    """Requests on a scheduler, whose passes write token ids into the cache."""

    def __init__(self, seed: int, num_positions: int, max_rows: int):
        self.rng = random.Random(seed)
        self.slots = Slots(KVCache(SHAPE, num_positions), max_rows, num_text_tokens=V)
        self.scheduler = Scheduler(self.slots, max_rows, CONTEXT)
        self.ended: list[int] = []
        self.came: dict[int, int] = {}
        self.next_id = self.num_steps = 0

    def prompt(self) -> list[int]:
        """A prompt of an instruction, a user's part and an item's, of which some may be missing."""
        rng = self.rng
        user = rng.randrange(6)
        instruction = [*range(20)] if rng.random() < 0.9 else [rng.randrange(V)]
        profile = [V + user, *(random.Random(user).choices(range(V), k=10 + 7 * user))]
        item = rng.choices(range(V), k=rng.choice([1, 3, 20, 60]))
        return [*instruction, *(profile if rng.random() < 0.8 else []), *item]

    def add(self, num_positions: int) -> list[Request]:
        """A few requests that fit into the cache."""
        requests = []
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            prompt, num_new = self.prompt(), self.rng.choice([1, 4, 30])
            if len(prompt) + num_new - 1 <= num_positions:
                requests.append(self.request(prompt, num_new))
        self.scheduler.add(requests)
        return requests

    def request(self, prompt: list[int], num_new: int) -> Request:
        request = Request(self.next_id, prompt, TextParams(num_new), frozenset())
        self.came[self.next_id] = self.num_steps
        self.next_id += 1
        return request

    def step(self, num_tokens: int) -> None:
        """A pass over prompts, if one is due, then a token for each request."""
        self.num_steps += 1
        if self.scheduler.is_due:
            self.scheduler.admit()
        if spans := self.scheduler.next_pass(num_tokens):
            assert sum(span.stop - span.start for span in spans) <= num_tokens
            self.compute(spans)
            self.write([span.sequence for span in spans])
        spans = self.scheduler.decode()
        self.compute(spans)
        self.write([span.sequence for span in spans])
        self.check()

    def compute(self, spans: list[Span]) -> None:
        keys = self.slots.cache.tensor[0, 0, :, 0]
        for span in spans:
            sequence = span.sequence
            first = start_of(sequence)
            ids = torch.tensor(sequence.token_ids[span.start : span.stop], dtype=torch.float32)
            assert isinstance(sequence, Request) or not sequence.is_computed
            if isinstance(sequence, Request):
                assert sequence.prefix.is_computed or any(
                    other.sequence is sequence.prefix
                    and other.stop == len(sequence.prefix.token_ids)
                    for other in spans
                )
            keys[first + span.start : first + span.stop] = ids
        self.scheduler.computed(spans)

    def write(self, sequences: list[Request | Prefix]) -> None:
        ended = []
        for one in sequences:
            if isinstance(one, Request) and one.is_computed:
                one.token_ids.append(self.rng.randrange(V))
                if len(one.generated) == one.text_params.max_new_tokens:
                    ended.append(one)
                    self.ended.append(one.request_id)
        self.scheduler.remove(ended)

    def check(self) -> None:
        """Each request has its own ids in its slot and its prefix's, and no two slots overlap."""
        at_work = [one for block in self.slots.request_blocks for one in block.requests]
        prefixes = {one.prefix for one in at_work if one.prefix.block is not None}
        taken: list[tuple[int, int]] = []
        for sequence in [*at_work, *prefixes]:
            block, first = sequence.block, start_of(sequence)
            assert 0 <= sequence.slot < block.num_slots
            needed = (
                sequence.num_positions if isinstance(sequence, Request) else len(sequence.token_ids)
            )
            assert needed <= block.slot_length
            keys = self.slots.cache.tensor[0, 0, first : first + sequence.num_computed, 0]
            assert keys.tolist() == sequence.token_ids[: sequence.num_computed]
            taken.append((first, first + block.slot_length))
        taken.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(taken))
        assert not taken or taken[-1][1] <= self.slots.cache.num_positions
        for one in at_work:
            assert [*one.prefix.token_ids, *one.token_ids[: one.num_given]] == one.prompt
        waiting = self.scheduler._queue
        assert sum(prefix.num_waiting for prefix in self.scheduler._prefixes) == len(waiting)
        earliest = min((self.came[one.request_id] for one in waiting), default=10**9)
        assert all(self.came[one.request_id] <= earliest for one in at_work)

    @property
    def is_idle(self) -> bool:
        return not self.scheduler.num_rows and not self.scheduler.num_waiting


def start_of(sequence: Request | Prefix) -> int:
    return sequence.block.start + sequence.slot * sequence.block.slot_length


@pytest.mark.parametrize("seed", range(12))
def test_every_text_is_computed_once_in_any_memory(seed):
    rng = random.Random(seed)
    num_positions, max_rows = rng.choice([90, 200, 700, 5000]), rng.choice([1, 2, 7, 40])
    num_tokens = rng.choice([8, 64, 512])
    simulation = Simulation(seed, num_positions, max_rows)
    expected: set[int] = set()
    cancelled: set[int] = set()
    for turn in range(10_000):
        if turn < 60 and rng.random() < 0.4:
            expected |= {request.request_id for request in simulation.add(num_positions)}
        if rng.random() < 0.1 and simulation.next_id:
            request_id = rng.randrange(simulation.next_id)
            simulation.scheduler.cancel(request_id)
            cancelled.add(request_id)
        assert simulation.scheduler.num_rows <= max_rows
        simulation.step(num_tokens)
        if turn > 60 and simulation.is_idle:
            break
    assert simulation.is_idle
    assert len(set(simulation.ended)) == len(simulation.ended)
    assert expected - set(simulation.ended) <= cancelled
    assert set(simulation.ended) <= expected
    simulation.slots._make_room()
    assert simulation.slots.cache.num_free == num_positions  # all memory was given back


@pytest.mark.parametrize(
    ("num_own", "num_new", "num_tokens"),
    [(4, 12, 512), (60, 1, 64)],
    ids=["more rows than slots", "more prompts than fit into a pass"],
)
def test_texts_end_in_the_order_in_which_they_came_whatever_prefix_they_share(
    num_own, num_new, num_tokens
):
    """One more prompt of the first user comes for each that ends, so its prefix always stays."""
    simulation = Simulation(0, num_positions=5000, max_rows=8)
    user, other = [*range(20)], [*range(20, 40)]
    ended: dict[int, int] = {}

    def add(profile: list[int], count: int) -> None:
        prompts = [[*profile, *simulation.rng.choices(range(V), k=num_own)] for _ in range(count)]
        simulation.scheduler.add([simulation.request(prompt, num_new) for prompt in prompts])

    add(user, 12)
    for step in range(1, 120):
        simulation.step(num_tokens)
        ending = [one for one in simulation.ended if one not in ended]
        ended |= dict.fromkeys(ending, step)
        add(other, 4 if step == 2 else 0)
        add(user, len(ending))
    assert len(ended) > 60
    by_arrival = sorted(simulation.came, key=simulation.came.__getitem__)
    assert all(one in ended for one in by_arrival[:40])
    assert max(ended[one] - simulation.came[one] for one in by_arrival[:40]) <= 24


def test_list_in_any_order_is_computed_one_prefix_after_the_other():
    """So few prefixes are in memory at a time, and decoding reads each for many rows."""
    simulation = Simulation(0, num_positions=5000, max_rows=16)
    profiles = [[*range(20), V + user, *range(user, user + 30)] for user in range(20)]
    prompts = [[*profile, *range(item)] for profile in profiles for item in range(1, 9)]
    simulation.rng.shuffle(prompts)
    simulation.scheduler.add([simulation.request(prompt, 5) for prompt in prompts])
    most = 0
    while not simulation.is_idle:
        simulation.step(num_tokens=512)
        blocks = simulation.slots.prefixes.blocks
        most = max(most, sum(len(block.prefixes) for block in blocks))
    assert len(simulation.ended) == len(prompts)
    assert most <= 5

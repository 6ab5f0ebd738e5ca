"""The schedule and the slots without a model: whatever comes and goes, nothing is lost or mixed up.

In place of keys, the arena holds the ids of the tokens themselves.
"""

import random
from itertools import pairwise

import pytest
import torch

from tests.xrec.generate.packed.runs import V
from xrec.generate.engine import TextParams
from xrec.generate.packed.arena import Arena, KeyValueShape, Slab
from xrec.generate.packed.schedule import Schedule
from xrec.generate.packed.sequences import Prefix, Request, Row, Span, Stopping
from xrec.generate.packed.slot_lengths import SlotLengths, size_class
from xrec.generate.packed.slots import Slots

CONTEXT = 400
SHAPE = KeyValueShape(1, 1, 1, torch.float32, torch.device("cpu"))


class Simulation:
    """Requests on a schedule, whose passes write token ids into the arena."""

    def __init__(self, seed: int, num_positions: int, max_rows: int):
        self.rng = random.Random(seed)
        self.slots = Slots(Arena(SHAPE, num_positions), max_rows, num_text_tokens=V)
        self.schedule = Schedule(self.slots, max_rows, CONTEXT)
        self.lengths: dict[Row, int] = {}
        self.ended: list[tuple[int, int]] = []
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
        """A few requests that fit into the arena."""
        requests = []
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            prompt, num_new = self.prompt(), self.rng.choice([1, 4, 30])
            num_texts, is_injected = self.rng.choice([1, 1, 3]), self.rng.random() < 0.8
            if len(prompt) + num_new - 1 <= num_positions:
                requests.append(self.request(prompt, num_new, num_texts, is_injected))
        self.schedule.add(requests)
        return requests

    def request(
        self, prompt: list[int], num_new: int, num_texts: int = 1, is_injected: bool = True
    ) -> Request:
        """A new request, which comes now."""
        params = TextParams(num_new, temperature=1.0, num_texts=num_texts, is_injected=is_injected)
        stopping = Stopping(frozenset(), (), str, num_new)
        request = Request(self.next_id, prompt, params, stopping)
        self.came[self.next_id] = self.num_steps
        self.next_id += 1
        return request

    def step(self, num_tokens: int) -> None:
        """A pass over prompts, if one is due, then a token for each row."""
        self.num_steps += 1
        if self.schedule.is_due:
            self.schedule.admit()
        if spans := self.schedule.next_pass(num_tokens):
            assert sum(span.stop - span.start for span in spans) <= num_tokens
            self.compute(spans)
            self.write([span.sequence for span in spans])
        spans = self.schedule.decode()
        self.compute(spans)
        self.write([span.sequence for span in spans])
        self.check()

    def compute(self, spans: list[Span]) -> None:
        keys = self.slots.arena.tensor[0, 0, :, 0]
        for span in spans:
            sequence = span.sequence
            first = start_of(sequence)
            ids = torch.tensor(sequence.token_ids[span.start : span.stop], dtype=torch.float32)
            assert isinstance(sequence, Row) or not sequence.is_computed
            if isinstance(sequence, Row):
                assert sequence.prefix.is_computed or any(
                    other.sequence is sequence.prefix
                    and other.stop == len(sequence.prefix.token_ids)
                    for other in spans
                )
            keys[first + span.start : first + span.stop] = ids
        self.schedule.computed(spans)

    def write(self, sequences: list[Row | Prefix]) -> None:
        ended = []
        for row in sequences:
            if isinstance(row, Row) and row.is_computed:
                row.token_ids.append(self.rng.randrange(V))
                if len(row.generated) == row.request.stopping.max_new_tokens:
                    ended.append(row)
                    self.ended.append((row.request.request_id, row.number))
        self.schedule.remove(ended)

    def check(self) -> None:
        """Each row has its own ids in its slot and its prefix's, and no two slots overlap."""
        rows = [row for slab in self.slots.row_slabs for row in slab.rows]
        prefixes = {id(row.prefix): row.prefix for row in rows if row.prefix.slab is not None}
        taken: list[tuple[int, int]] = []
        for sequence in [*rows, *prefixes.values()]:
            slab, first = sequence.slab, start_of(sequence)
            assert slab is not None
            assert 0 <= sequence.slot < slab.num_slots
            needed = (
                sequence.num_positions if isinstance(sequence, Row) else len(sequence.token_ids)
            )
            assert needed <= slab.slot_length
            keys = self.slots.arena.tensor[0, 0, first : first + sequence.num_computed, 0]
            assert keys.tolist() == sequence.token_ids[: sequence.num_computed]
            taken.append((first, first + slab.slot_length))
        taken.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(taken))
        assert not taken or taken[-1][1] <= self.slots.arena.num_positions
        for row in rows:
            whole = [*row.prefix.token_ids, *row.token_ids[: row.num_given]]
            assert whole == row.request.prompt
            assert row.prefix.is_injected == row.request.params.is_injected
        waiting = [row for prefix in self.schedule._prefixes for row in prefix.waiting]
        assert len(waiting) == self.schedule.num_waiting
        earliest = min((self.came[row.request.request_id] for row in waiting), default=10**9)
        assert all(self.came[row.request.request_id] <= earliest for row in rows)


def start_of(sequence: Row | Prefix) -> int:
    """The first position of a sequence's slot."""
    assert sequence.slab is not None
    return sequence.slab.start + sequence.slot * sequence.slab.slot_length


@pytest.mark.parametrize("seed", range(12))
def test_every_text_is_computed_once_in_any_memory(seed: int) -> None:
    rng = random.Random(seed)
    num_positions, max_rows = rng.choice([90, 200, 700, 5000]), rng.choice([1, 2, 7, 40])
    num_tokens = rng.choice([8, 64, 512])
    simulation = Simulation(seed, num_positions, max_rows)
    expected: set[tuple[int, int]] = set()
    cancelled: set[int] = set()
    for turn in range(10_000):
        if turn < 60 and rng.random() < 0.4:
            for request in simulation.add(num_positions):
                texts = getattr(request.params, "num_texts", 1)
                expected |= {(request.request_id, number) for number in range(texts)}
        if rng.random() < 0.1 and simulation.next_id:
            request_id = rng.randrange(simulation.next_id)
            simulation.schedule.cancel(request_id)
            cancelled.add(request_id)
        assert simulation.schedule.num_rows <= max_rows
        simulation.step(num_tokens)
        if turn > 60 and simulation.schedule.is_idle:
            break
    assert simulation.schedule.is_idle
    assert len(set(simulation.ended)) == len(simulation.ended)
    assert {one for one in expected - set(simulation.ended) if one[0] not in cancelled} == set()
    assert set(simulation.ended) <= expected
    assert simulation.slots.num_positions == 0
    simulation.slots._make_room()
    assert simulation.slots.arena.num_free == num_positions  # all memory was given back


@pytest.mark.parametrize(
    ("num_own", "num_new", "num_tokens"),
    [(4, 12, 512), (60, 1, 64)],
    ids=["more rows than slots", "more prompts than fit into a pass"],
)
def test_texts_end_in_the_order_in_which_they_came_whatever_prefix_they_share(
    num_own: int, num_new: int, num_tokens: int
) -> None:
    """One more prompt of the first user comes for each that ends, so its prefix always stays."""
    simulation = Simulation(0, num_positions=5000, max_rows=8)
    user, other = [*range(20)], [*range(20, 40)]
    ended: dict[int, int] = {}

    def add(profile: list[int], count: int) -> None:
        prompts = [[*profile, *simulation.rng.choices(range(V), k=num_own)] for _ in range(count)]
        simulation.schedule.add([simulation.request(prompt, num_new) for prompt in prompts])

    add(user, 12)
    for step in range(1, 120):
        simulation.step(num_tokens)
        ending = [one for one, _ in simulation.ended if one not in ended]
        ended |= dict.fromkeys(ending, step)
        add(other, 4 if step == 2 else 0)
        add(user, len(ending))
    assert len(ended) > 60
    by_arrival = sorted(simulation.came, key=simulation.came.__getitem__)
    assert all(one in ended for one in by_arrival[:40])
    assert max(ended[one] - simulation.came[one] for one in by_arrival[:40]) <= 24


def test_list_in_any_order_is_computed_one_prefix_after_the_other() -> None:
    """So few prefixes are in memory at a time, and decoding reads each for many rows."""
    simulation = Simulation(0, num_positions=5000, max_rows=16)
    profiles = [[*range(20), V + user, *range(user, user + 30)] for user in range(20)]
    prompts = [[*profile, *range(item)] for profile in profiles for item in range(1, 9)]
    simulation.rng.shuffle(prompts)
    simulation.schedule.add([simulation.request(prompt, 5) for prompt in prompts])
    most = 0
    while not simulation.schedule.is_idle:
        simulation.step(num_tokens=512)
        most = max(most, simulation.slots.prefixes.count)
    assert len(simulation.ended) == len(prompts)
    assert most <= 5


def test_arena_gives_ranges_out_and_joins_those_that_come_back() -> None:
    arena = Arena(SHAPE, 100)
    first, second = (Slab(*arena_range) for arena_range in reserved(arena, (10, 3), (10, 2)))
    assert (first.start, first.stop, second.start, second.stop) == (0, 30, 30, 50)
    assert not arena.grow(first)
    assert arena.grow(second)
    arena.shrink(first, 1)
    assert arena.num_free == 100 - 10 - 30
    assert arena.reserve(25, 1) == (60, 1)
    arena.shrink(first, 0)
    arena.shrink(second, 0)
    assert arena.reserve(60, 5) == (0, 1)
    assert arena.reserve(60, 1) is None
    assert arena.num_free == 100 - 25 - 60


def reserved(arena: Arena, *wanted: tuple[int, int]) -> list[tuple[int, int, int]]:
    """The start, length and number of slots of each range."""
    ranges = []
    for length, count in wanted:
        found = arena.reserve(length, count)
        assert found is not None
        ranges.append((found[0], length, found[1]))
    return ranges


def test_arena_without_positions_is_empty() -> None:
    assert Arena(SHAPE, 0).reserve(1, 1) is None


def test_slots_are_as_long_as_the_largest_similar_need_while_there_is_room() -> None:
    roomy, tight = SlotLengths(8, 8 * 200), SlotLengths(8, 8 * 100)
    for lengths in (roomy, tight):
        lengths.see(150)
        lengths.see(1000)
    assert roomy.choices(70)[0] == size_class(150) == 160
    assert tight.choices(70)[0] == size_class(70) == 80
    assert roomy.choices(20)[0] == size_class(20) == 32  # not similar
    assert tight.choices(70)[-1] == 70


def test_size_class_is_at_most_a_quarter_longer() -> None:
    for need in range(64, 3000):
        assert need <= size_class(need) <= 1.25 * need
        assert size_class(need) % 16 == 0

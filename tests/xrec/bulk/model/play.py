"""Plays seeded interleavings of the protocol and counts what the judge found in them."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from tests.xrec.bulk.model import judge, others
from tests.xrec.bulk.model.protocol import RULES, Command
from tests.xrec.bulk.model.store import RETENTION, Actor, World, alone, interleave
from tests.xrec.bulk.model.table import snapshot


@dataclass
class Counts:
    """In how many interleavings the judge found what."""

    num_played: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    windows: Counter[str] = field(default_factory=Counter)
    shortest: list[str] = field(default_factory=list)  # violation: a line for each actor's turn


def play(
    seeds: Iterable[int], *, raw: bool, rules_off: Iterable[str] = (), to_first: bool = False
) -> Counts:
    """Play each seed, or up to the first violation; `raw`: someone may delete the output."""
    counts, off = Counts(), frozenset(rules_off)
    assert off <= RULES.keys()
    for seed in seeds:
        world = simulate(seed, raw, off)
        counts.num_played += 1
        for finding, step in world.findings.items():
            if judge.is_window(world, finding):
                counts.windows[finding] += 1
                continue
            counts.violations[finding] += 1
            turns = groupby(world.trace[:step], key=lambda s: s[0])
            lines = [f"{actor}: {'; '.join(s for _, s in steps)}" for actor, steps in turns]
            if not counts.shortest or len(lines) < len(counts.shortest) - 1:
                counts.shortest = [f"seed {seed}: {finding}", *lines]
        if to_first and counts.violations:
            break
    return counts


def simulate(seed: int, raw: bool, rules_off: frozenset[str] = frozenset()) -> World:
    """Play one interleaving to its end, and what must be possible after it."""
    world = World(seed, rules_off, judge.judge_commit)
    judge.judge_answers(world, interleave(world, _actors(world, raw)))
    for key in world.keys("log/") + world.keys("check/") if snapshot(world) is None else ():
        world.do(("delete", key))
    last = Command(world, "A", retry=False, republish=True).go()
    judge.judge_end(world, "A", alone(world, "the last A", last))
    alone(world, "the last reader", _read(world, True))
    world.now += 2 * RETENTION
    alone(world, "the last clean", others.clean(world))
    alone(world, "the last vacuum", others.vacuum(world))
    judge.judge_garbage(world)
    return world


def _read(world: World, audits: bool) -> Actor:
    return others.read(world, partial(judge.judge_reading, world, audits), audits)


def _actors(world: World, raw: bool) -> dict[str, Actor]:
    def is_so(chance: float) -> bool:
        return world.rng.random() < chance

    actors: dict[str, Actor] = {}
    for number in range(world.rng.randint(2, 4)):
        run = "AB"[number % 2 if is_so(0.7) else 0]
        actors[f"{run}{number}"] = Command(world, run, is_so(0.5), is_so(0.25)).go()
    chances: dict[str, tuple[float, Callable[[World], Actor]]] = {
        "delete": (0.35 * raw, others.delete_by_hand),
        "delete again": (0.1 * raw, others.delete_by_hand),
        "takedown": (0.4, partial(others.take_down, pair=world.rng.randrange(6))),
        "rollback": (0.25, others.roll_back),
        "empty": (0.15, others.empty),
        "clean": (0.3, others.clean),
        "optimize": (0.25, others.optimize),
        "vacuum": (0.3, others.vacuum),
        "restore": (0.15, others.restore),
        "append": (0.05, others.append),
        "checkpoint": (0.2, others.checkpoint),
        "our reader": (0.25, partial(_read, audits=True)),
        "a foreign reader": (0.25, partial(_read, audits=False)),
    }
    return actors | {n: begin(world) for n, (chance, begin) in chances.items() if is_so(chance)}

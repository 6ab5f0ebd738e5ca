"""The world of the protocol's model: an object store, a clock that counts steps, a scheduler.

An actor is a generator that yields steps of the store and is sent their answers. A seed decides who
is next, who pauses or dies, which reads fail, and which answers of creates are lost. Keys: `log/`,
`check/`, `part/` and `x/` are the output; `taken/`, the takedown list, lies elsewhere.
"""

import random
from collections.abc import Callable, Generator
from typing import Any

RETENTION = 150  # steps; of vacuum and of clean
CORRUPT = "corrupt"  # what a get answers of an object that cannot be read
_PAUSES = (20, 60, RETENTION + 50)
_ABSENT: dict[str, Any] = {"get": None, "list": (), "ages": {}}
_CRASH, _FAILED_READ, _LOST_ANSWER, _GARBLED_READ = 0.004, 0.01, 0.05, 0.01  # at each step

Step = tuple[Any, ...]  # kind, key, and the value of a put or create
Actor = Generator[Step, Any, Any]


class EndedError(Exception):
    """Ends the actor that raises it, with an answer for its user."""


class World:
    """The store, who acts on it, and what the judge found."""

    def __init__(self, seed: int, rules_off: frozenset[str], watch: Callable[..., None]) -> None:
        self.rng, self.rules_off = random.Random(seed), rules_off
        self.watch = watch  # sees each new version of the table
        self.objects: dict[str, tuple[Any, int]] = {}  # key: value, time
        self.now = self.num_names = 0
        self.is_rough = self.rng.random() < 0.5  # with crashes, failed reads and lost answers
        self.late: list[Step] = []  # creates that arrive when nobody waits for them any more
        self.opened: Any = None  # the table, until its log changes
        self.logs: dict[Any, Any] = {}
        self.causes: set[str] = set()  # what happened that may open a window
        self.findings: dict[str, int] = {}  # and the step that showed it first
        self.taken: dict[int, int] = {}  # pair: when its takedown ended
        self.emptied = 0  # when the last emptying that ended had begun
        self.done: list[tuple[str, str, int]] = []  # run, nonce and pass of each "done"
        self.actor, self.trace = "", list[tuple[str, str]]()

    def on(self, rule: str) -> bool:
        return rule not in self.rules_off

    def new(self, prefix: str) -> str:
        """Return a name that nobody else has."""
        self.num_names += 1
        return f"{prefix}{self.num_names}"

    def find(self, finding: str) -> None:
        self.findings.setdefault(finding, self.now)

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.objects if key.startswith(prefix)]

    def rolls(self, chance: float) -> bool:
        return self.is_rough and self.rng.random() < chance

    def do(self, step: Step) -> Any:
        """Do a step and return its answer. A create's is True, False, or None where it is lost."""
        kind, key = step[0], step[1]
        self.now += 1
        self.trace.append((self.actor, f"{kind} {key}"))
        if kind == "get":
            value, _ = self.objects.get(key, (None, 0))
            garbled = value is not None and "/results/" in key and self.rolls(_GARBLED_READ)
            return CORRUPT if garbled else value
        if kind == "list":
            return self.keys(key)
        if kind == "ages":
            return {k: self.now - self.objects[k][1] for k in self.keys(key)}
        if kind == "create":
            return self._create(key, step)
        if key[0] in "lc":
            self.opened = None
        if kind == "put":
            self.objects[key] = (step[2], self.now)
        else:
            self.objects.pop(key, None)
        return True

    def _create(self, key: str, step: Step) -> bool | None:
        fate = self.rng.random() if self.rolls(_LOST_ANSWER) else None
        if fate is not None and fate < 0.5:
            self.late += [step] if fate < 0.25 else []
            return None
        is_new = key not in self.objects
        if is_new:
            self.objects[key], self.opened = (step[2], self.now), None
            if key.startswith("log/"):
                self.watch(self, int(key[4:]), step[2])
        return is_new if fate is None else None


class _Turn:
    def __init__(self, name: str, steps: Actor, asleep_until: int = 0) -> None:
        self.name, self.steps, self.asleep_until = name, steps, asleep_until
        self.step = next(steps)
        self.num_failures = 0  # of reads, one after the other

    def take(self, world: World) -> str | None:
        """Do the next step; return what the actor says at its end, else None."""
        world.actor, kind = self.name, self.step[0]
        fails = kind in _ABSENT and world.rolls(0.6 if self.num_failures else _FAILED_READ)
        self.num_failures = self.num_failures + 1 if fails else 0
        if self.num_failures > 3:
            return "error: the store cannot be read"
        if fails and world.on("failed_read"):
            return None
        try:
            self.step = self.steps.send(_ABSENT[kind] if fails else world.do(self.step))
        except StopIteration as end:
            return end.value or "done"
        except EndedError as end:
            return str(end)
        return None


def interleave(world: World, actors: dict[str, Actor]) -> dict[str, str]:
    """Let actors take turns until all have ended; return what those said that did not die."""
    rng, answers, turn = world.rng, {}, None
    turns = [_Turn(n, s, rng.choice((0, 0, rng.randint(0, 250)))) for n, s in actors.items()]
    while turns:
        if turn is None or turn.asleep_until > world.now or rng.random() > 0.75:
            awake = [t for t in turns if t.asleep_until <= world.now]
            if not awake:
                world.now = min(t.asleep_until for t in turns)
                continue
            turn = awake[int(rng.random() * len(awake))]
        commits = turn.step[0] == "create" and turn.step[1].startswith("log/")
        if rng.random() < (0.15 if commits else 0.02):
            turn.asleep_until = world.now + rng.choice(_PAUSES)
            continue
        if (answer := turn.take(world)) is not None:
            answers[turn.name] = answer
        if answer is not None or world.rolls(_CRASH):
            turns.remove(turn)
            turn = None
        while world.late:
            steps = (step for step in (world.late.pop(),))
            turns.append(_Turn("a late request", steps, world.now + rng.choice((5, 30, 100))))
    return answers


def alone(world: World, name: str, steps: Actor) -> str:
    """Let one actor go on to its end, with nothing that disturbs it; return what it says."""
    world.is_rough, turn = False, _Turn(name, steps)
    while (answer := turn.take(world)) is None:
        pass
    return answer

"""Blows at the processes of toy runs, and a reader that opens versions all the while."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from cluster.local import add_node, local_cluster
from cluster.node import stop_nodes
from cluster.record import LocalCluster
from tests.xrec.bulk.toy_run import Toy
from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import environment_of
from xrec.bulk.state import read_state

_MOST_PROCESSES = 4  # of a run at the same time
_SECONDS_TO_TAKE_OVER = 90


@dataclass
class Nodes:
    """A Ray cluster of three nodes, of which one is lost now and then."""

    stack: ExitStack
    cluster: LocalCluster

    @classmethod
    def start(cls, stack: ExitStack) -> "Nodes":
        """Start the cluster; the stack ends it."""
        return cls(stack, stack.enter_context(local_cluster(num_workers=2, cpus_per_node=2)))

    @property
    def environment(self) -> dict[str, str]:
        """What leads a driver to the cluster."""
        return {**self.cluster.environment, "RAY_ADDRESS": self.cluster.address}

    def kill_node(self) -> None:
        """Kill a node with all of its processes; another one joins."""
        self.cluster.nodes[-1].kill()
        self.cluster = add_node(self.cluster, cpus=2)
        self.stack.callback(stop_nodes, self.cluster.nodes[-1:])

    def kill_actor(self, draw: random.Random) -> bool:
        """Kill an actor of this cluster; returns False if there is none."""
        nodes = {node.pid for node in self.cluster.nodes}
        actors = [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.info["cmdline"]
            and process.info["cmdline"][0].startswith("ray::ChunkActor")
            and nodes.intersection(parent.pid for parent in process.parents())
        ]
        if actors:
            draw.choice(actors).kill()
        return bool(actors)


@dataclass
class Process:
    """A process of a run: a driver, or its upkeep."""

    run: str
    what: str
    process: "subprocess.Popen[bytes]"

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


@dataclass
class Chaos:
    """Starts the processes of the runs of a place, and strikes them.

    blows: what was done so far; each kind comes in each round. next_kinds: what is left of the
    round, the next one last. num_woken: processes that were stopped, and woken after another one
    had taken their run over.
    """

    place: Place
    folder: Path
    toys: dict[str, Toy]
    nodes: Nodes | None = None
    draw: random.Random = field(default_factory=lambda: random.Random(18))
    processes: list[Process] = field(default_factory=list)
    blows: list[str] = field(default_factory=list)
    next_kinds: list[str] = field(default_factory=list)
    num_woken: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for each in self.processes:
            each.process.kill()
            each.process.wait()

    def start(self, run: str, *what: str) -> None:
        """Start a process: `drive` with reasons, or `upkeep`."""
        name = f"{run}-{what[0]}-{len(self.processes)}"
        command = [sys.executable, "-m", "tests.xrec.bulk.chaos_driver"]
        environment = {
            **environment_of(self.place),
            **(self.nodes.environment if self.nodes else {}),
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(self.folder), name, run, *what],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=Path(__file__).parents[3],
            )
        self.processes.append(Process(run, " ".join(what), process))

    def strike(self, num_blows: int, seconds: tuple[float, float]) -> None:
        """Strike so many times, as long as a driver is at work, with waits between the blows."""
        wanted = len(self.blows) + num_blows
        while len(self.blows) < wanted and self._alive():
            time.sleep(self.draw.uniform(*seconds))
            if not self.next_kinds:
                self.next_kinds = ["kill", "stop"]
                if self.nodes is not None:
                    self.next_kinds += ["stop", "actor", "node"]
                self.draw.shuffle(self.next_kinds)
            if getattr(self, f"_{self.next_kinds[-1]}")():
                self.blows.append(self.next_kinds.pop())

    def end(self, seconds: float) -> None:
        """Let all drivers end, and with them the upkeep; see that none ended with an error."""
        deadline = time.monotonic() + seconds
        for what in sorted({(each.run, each.what) for each in self.processes}):
            if what[1] != "upkeep" and not self._ended_well(*what):
                self.start(what[0], *what[1].split())
        drivers = [each for each in self.processes if each.what != "upkeep"]
        for each in drivers:
            each.process.wait(max(1.0, deadline - time.monotonic()))
        (self.folder / "end").touch()
        for each in self.processes:
            # A vacuum or compaction under way has all files to go through.
            code = each.process.wait(max(60.0, deadline - time.monotonic()))
            assert code in (0, -signal.SIGKILL), self.logs()
        (self.folder / "end").unlink()
        assert all(self._ended_well(each.run, each.what) for each in drivers), self.logs()
        self.processes.clear()

    def logs(self) -> str:
        """The ends of what the processes printed."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in paths)

    def _alive(self) -> list[Process]:
        return [each for each in self.processes if each.what != "upkeep" and each.is_alive]

    def _ended_well(self, run: str, what: str) -> bool:
        return any(
            (each.run, each.what, each.process.returncode) == (run, what, 0)
            for each in self.processes
        )

    def _kill(self) -> bool:
        """Kill a process, and start another in its place."""
        alive = [each for each in self.processes if each.is_alive]
        if not alive:
            return False
        victim = self.draw.choice(alive)
        victim.process.kill()
        victim.process.wait()
        self.start(victim.run, *victim.what.split())
        return True

    def _stop(self) -> bool:
        """Stop a process until another one took its run over; then wake it."""
        alive = [each for each in self.processes if each.is_alive]
        if not alive:
            return False
        victim = self.draw.choice(alive)
        victim.process.send_signal(signal.SIGSTOP)
        epoch = self._epoch(victim.run)
        if sum(each.run == victim.run for each in alive) < _MOST_PROCESSES:
            self.start(victim.run, *victim.what.split())
        others = [each for each in self.processes if each.run == victim.run and each is not victim]
        deadline = time.monotonic() + _SECONDS_TO_TAKE_OVER
        while self._epoch(victim.run) == epoch and time.monotonic() < deadline:
            if not any(each.is_alive for each in others):
                break  # they found the run finished
            time.sleep(0.2)
        self.num_woken += self._epoch(victim.run) > epoch
        victim.process.send_signal(signal.SIGCONT)
        return True

    def _epoch(self, run: str) -> int:
        table = self.toys[run].run.table
        return table.commit(table.newest_version()).epoch

    def _actor(self) -> bool:
        return self.nodes is not None and self.nodes.kill_actor(self.draw)

    def _node(self) -> bool:
        assert self.nodes is not None
        self.nodes.kill_node()
        return True


class Reader(threading.Thread):
    """Opens the newest versions of runs all the while, and notes what must not be.

    num_versions: how many versions were read.
    """

    def __init__(self, toys: Sequence[Toy]):
        super().__init__(daemon=True)
        self._toys = toys
        self._texts: list[dict[tuple[str, str], str]] = [{} for _ in toys]
        self._seen = [-1] * len(toys)
        self._is_ended = threading.Event()
        self._error: Exception | None = None
        self.num_versions = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._is_ended.set()
        self.join()
        if self._error is not None and error is None:
            raise self._error

    def run(self) -> None:
        """Read until the end, or until something is wrong."""
        try:
            while not self._is_ended.wait(0.05):
                for number in range(len(self._toys)):
                    self._look(number)
        except Exception as error:  # noqa: BLE001 - the test raises it
            self._error = error

    def _look(self, number: int) -> None:
        """Each row is there once, as many as the state counts; what succeeded stays as it is."""
        table = self._toys[number].run.table
        version = table.newest_version()
        if version == self._seen[number]:
            return
        rows = table.snapshot(version).dataset().to_table(columns=["user", "item", "text"])
        _, state = read_state(table, version)
        keys = list(zip(rows["user"].to_pylist(), rows["item"].to_pylist(), strict=True))
        assert len(set(keys)) == len(keys), f"version {version} has rows twice"
        assert len(keys) == (state.num_rows if state else 0), f"version {version}: {state}"
        texts = {
            key: text
            for key, text in zip(keys, rows["text"].to_pylist(), strict=True)
            if text is not None
        }
        before = self._texts[number]
        assert before.items() <= texts.items(), f"version {version} lost or changed rows"
        self._texts[number] = texts
        self._seen[number] = version
        self.num_versions += 1


def environment_size(name: str, default: int) -> int:
    """A size that the environment may set."""
    return int(os.environ.get(name, str(default)))

"""The endpoint under load: `python -m benchmarks.serve run WORKSPACE`, from the repository's root.

1, 4 and 16 clients ask for one pair after the other, each over a connection that stays open. `hits`
are pairs of the backfill, and `live` ones are generated (`fresh`). `plain` is what one would write
first: the same model and adapter behind Ray Serve, with `generate` for one request at a time. Every
server runs in processes of its own and the clients in this process, all on the same cores.
"""

import asyncio
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import aiohttp
import numpy as np
import psutil
import typer
import yaml

from benchmarks.report import (
    BENCHMARKS,
    Dtype,
    MaxNewTokens,
    Output,
    Record,
    Results,
    Threads,
    command_line,
    known,
    write_tables,
)
from xrec.backfill import read_explanations
from xrec.data import read_dataset
from xrec.storage import open_location

app = command_line(__doc__)

Ask = Callable[[aiohttp.ClientSession, int], Awaitable[None]]
"""Asks for the pair of a number."""

_WARM_UP = 3
_SERVERS: dict[str, tuple[str, ...]] = {
    "hits": ("xrec.cli", "serve"),
    "live": ("xrec.cli", "serve"),
    "plain": ("benchmarks.serve_plain",),
}


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    seconds_to_ready: float
    process: psutil.Process

    def costs(self) -> Record:
        """Seconds until it was ready, and the MiB of the largest process of each kind."""
        found: Record = {"seconds to ready": round(self.seconds_to_ready, 1)}
        for process in self.process.children(recursive=True):
            name = " ".join(process.cmdline())[:60]
            for kind in ("Generator", "Frontend", "Plain"):
                if kind in name:
                    mib = round(process.memory_info().rss / 2**20)
                    found[f"{kind} MiB"] = max(found.get(f"{kind} MiB", 0), mib)
        return found


@app.command()
def run(
    workspace: Annotated[
        str,
        typer.Argument(
            help="Folder with the artifacts dataset, graph, adapter and, for hits, explanations."
        ),
    ],
    llm: Annotated[str, typer.Option(help="The language model of the adapter.")],
    what: Annotated[
        list[str] | None, typer.Option(help="Any of hits, live, plain; by default all.")
    ] = None,
    clients: Annotated[
        list[int] | None, typer.Option(help="Clients at a time; by default 1, 4 and 16.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long each number of clients asks.")
    ] = 15.0,
    max_new_tokens: MaxNewTokens = 40,
    dtype: Dtype = "float32",
    threads: Threads = 1,
    output: Output = BENCHMARKS / "serve",
) -> None:
    """Measure latency and throughput at each number of clients, the time to ready, and memory."""
    config: Record = {
        "workspace": str(Path(workspace).resolve()),
        "llm": {"model": llm, "dtype": dtype},
        "decoding": {
            "max_new_tokens": max_new_tokens,
            "text": {"refuses_repetition": False, "max_words": None},
        },
        "models": {"cpus_per_replica": threads, "device": "cpu"},
    }
    rows: list[Record] = []
    for kind in known(what, list(_SERVERS), "kind of request"):
        with _server(_SERVERS[kind], config) as server:
            for number in clients or [1, 4, 16]:
                ask = _ask(kind, server.url, config["workspace"])
                measured = asyncio.run(_measure(ask, number, seconds))
                rows.append({"what": kind, "clients": number, **measured, **server.costs()})
                Results(output).append("serve", rows[-1])
    write_tables(output, "serve", {str(config): rows})


@contextmanager
def _server(modules: tuple[str, ...], config: Record) -> Iterator[Server]:
    """Run `python -m modules... CONFIG`: wait until it is ready, and end it after the `with`."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path = Path(folder) / "project.yaml"
        values = {**config, "http": {"port": port, "deadline_seconds": 300}}
        path.write_text(yaml.safe_dump({"serve": values}))
        started = time.monotonic()
        log = (Path(folder) / "log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", *modules, str(path)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(f"{url}/readyz", process, Path(folder) / "log")
            yield Server(url, time.monotonic() - started, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(120)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while process.poll() is None:
        with suppress(OSError), urlopen(url):
            return
        time.sleep(0.1)
    raise SystemExit(f"the server ended:\n{log.read_text()[-3000:]}")


def _ask(kind: str, url: str, workspace: str) -> Ask:
    pairs = _pairs(kind, workspace)
    random.Random(0).shuffle(pairs)

    async def hit(session: aiohttp.ClientSession, number: int) -> None:
        user, item = pairs[number % len(pairs)]
        async with session.get(f"{url}/v1/explanations/{user}/{item}") as response:
            assert (await response.json())["source"] == "backfill"

    async def live(session: aiohttp.ClientSession, number: int) -> None:
        user, item = pairs[number % len(pairs)]
        asked = {"pairs": [{"user_id": user, "item_id": item, "fresh": True}]}
        async with session.post(f"{url}/v1/explanations", json=asked) as response:
            (answer,) = (await response.json())["explanations"]
            assert "explanation" in answer, answer

    return hit if kind == "hits" else live


def _pairs(kind: str, workspace: str) -> list[tuple[str, str]]:
    if kind == "hits":
        table = read_explanations(f"{workspace}/explanations")
        return list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    users, items = dataset.users["user_id"][:400], dataset.items["item_id"][:40]
    return [(user, item) for user in users.to_pylist() for item in items.to_pylist()]


async def _measure(ask: Ask, num_clients: int, seconds: float) -> Record:
    latencies: list[float] = []
    connector = aiohttp.TCPConnector(limit=num_clients)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        for number in range(_WARM_UP):
            await ask(session, number)
        started = time.perf_counter()

        async def client(number: int) -> None:
            while time.perf_counter() < started + seconds:
                at = time.perf_counter()
                await ask(session, number)
                latencies.append(time.perf_counter() - at)
                number += num_clients

        await asyncio.gather(*(client(_WARM_UP + number) for number in range(num_clients)))
        took = time.perf_counter() - started
    p50, p99 = (1000 * np.percentile(latencies, (50, 99))).round(1).tolist()
    rate = round(len(latencies) / took, 2)
    return {"requests": len(latencies), "requests a second": rate, "p50 ms": p50, "p99 ms": p99}


if __name__ == "__main__":
    app()

"""The endpoint under load: `python -m benchmarks.serve run WORKSPACE`, from the repository's root.

`flood` instead asks, as one client, for pairs of the backfill, first alone and then beside a flood;
nginx with the config of infra/nginx is in front of the endpoint.

1, 4 and 16 clients ask for one pair after the other, each over a connection that stays open. `hits`
are pairs of the backfill, and `live` ones are generated (`fresh`). `plain` is what one would write
first: the same model and adapter behind Ray Serve, with `generate` for one request at a time. Every
server runs in processes of its own and the clients in this process, all on the same cores.
"""

import asyncio
import multiprocessing
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
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
from tests.world.program import nginx_before
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
        "models": {"cpus": threads, "device": "cpu"},
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


KEYS = {"shop": "the key of a shop", "flood": "another key"}
_STALLED, _LARGE_BYTES = 300, 2**20
_FLOOD_ADDRESS = "127.0.0.2"  # nginx limits by address
_FAST_CLIENTS = "$binary_remote_addr zone=requests:10m rate=10000r/s"  # none of them waits
_SECONDS_BEFORE = 3.0  # in which the flood begins
_RATES = ("many", "large", "malformed")


@app.command()
def flood(
    workspace: Annotated[
        str, typer.Argument(help="Folder with dataset, graph, adapter and explanations.")
    ],
    llm: Annotated[str, typer.Option(help="The language model of the adapter.")],
    seconds: Annotated[float, typer.Option(min=1, help="Alone, and as long beside it.")] = 60.0,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second of each kind but the stalled ones.")
    ] = 20.0,
    output: Output = BENCHMARKS / "serve",
) -> None:
    """Measure a client beside a flood of slow, large, many and malformed requests by another key.

    From another address, 300 connections send a body a byte a second. The others are as many a
    second as `rate` says: pairs of the backfill beyond the key's rate, bodies of 1 MiB, and what is
    no request.
    """
    keys = [
        {"name": name, "sha256": sha256(key.encode()).hexdigest(), "pairs_per_minute": pairs}
        for (name, key), pairs in zip(KEYS.items(), (10**6, 600), strict=True)
    ]
    config: Record = {
        "workspace": str(Path(workspace).resolve()),
        "llm": {"model": llm},
        "models": {"device": "cpu"},
        "keys": keys,
    }
    rows: list[Record] = []
    with (
        _server(_SERVERS["hits"], config) as server,
        nginx_before(int(server.url.rpartition(":")[2]), limit_req_zone=_FAST_CLIENTS) as url,
    ):
        ask, pairs = _ask("hits", url, workspace), _pairs("hits", workspace)
        headers = {"X-API-Key": KEYS["shop"]}
        for what in ("alone", "beside the flood"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
                if what != "alone":
                    other.submit(int).result()  # its imports take seconds
                    flooding = other.submit(_flood, url, pairs, rate, seconds)
                    time.sleep(_SECONDS_BEFORE)
                measured = asyncio.run(_measure(ask, 1, seconds, headers))
                answered = flooding.result() if what != "alone" else {}
            rows.append({"what": what, "rate": rate, **measured, **answered})
            Results(output).append("flood", rows[-1])
    alone, beside = (row["p99 ms"] for row in rows)
    rows[-1]["times its own p99"] = round(beside / alone, 2)
    write_tables(output, "flood", {f"{rate} a second": rows})


def _flood(url: str, pairs: list[tuple[str, str]], rate: float, seconds: float) -> Record:
    """Flood the endpoint from a process of its own; returns how often each status was answered."""
    return asyncio.run(_flooded(url, pairs, rate, seconds + _SECONDS_BEFORE))


async def _flooded(url: str, pairs: list[tuple[str, str]], rate: float, seconds: float) -> Record:
    found: Counter[str] = Counter()
    ends, headers = time.monotonic() + seconds, {"X-API-Key": KEYS["flood"]}
    host, port = url.removeprefix("http://").split(":")
    explain = f"{url}/v1/explanations"
    texts = (b"{", b'{"pairs": 1}', b"\xff" * 99, b"[" * 9999)
    sent: dict[str, Callable[[int], dict[str, Any]]] = {
        "many": lambda n: {"method": "GET", "url": "/".join((explain, *pairs[n % len(pairs)]))},
        "large": lambda n: {"method": "POST", "url": explain, "data": b" " * _LARGE_BYTES},
        "malformed": lambda n: {"method": "POST", "url": explain, "data": texts[n % len(texts)]},
    }

    async def stalled() -> None:
        head = f"POST /v1/explanations HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999\r\n"
        while time.monotonic() < ends:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    host, int(port), local_addr=(_FLOOD_ADDRESS, 0)
                )
                writer.write(f"{head}X-API-Key: {KEYS['flood']}\r\n\r\n".encode())
                while time.monotonic() < ends and not reader.at_eof() and not writer.is_closing():
                    writer.write(b" ")
                    with suppress(TimeoutError):
                        line = await asyncio.wait_for(reader.readline(), 1)
                        found[f"stalled {line[9:12].decode() or 'closed'}"] += 1
                        break
                writer.close()
            await asyncio.sleep(1)  # as Retry-After says

    async def ask(session: aiohttp.ClientSession, kind: str, number: int) -> None:
        try:
            async with session.request(**sent[kind](number)) as response:
                await response.read()
                found[f"{kind} {response.status}"] += 1
        except aiohttp.ClientError as error:
            found[f"{kind} {type(error).__name__}"] += 1

    connector = aiohttp.TCPConnector(limit=100, local_addr=(_FLOOD_ADDRESS, 0))
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        waiting = [asyncio.create_task(stalled()) for _ in range(_STALLED)]
        for number in range(round(rate * seconds)):
            waiting += [asyncio.create_task(ask(session, kind, number)) for kind in _RATES]
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*waiting)
    return dict(sorted(found.items()))


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


async def _measure(
    ask: Ask, num_clients: int, seconds: float, headers: dict[str, str] | None = None
) -> Record:
    latencies: list[float] = []
    connector = aiohttp.TCPConnector(limit=num_clients)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as session:
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

"""The endpoint under load: `python -m benchmarks.serve run WORKSPACE`, from the repository's root.

1, 4 and 16 clients ask for one pair after the other, each over a connection that stays open. `hits`
are pairs of the backfill, `live` ones are generated (`fresh`), and `stream` gets the same as
server-sent events, for the time to the first token. `plain` is what one would write first: the same
model and adapter behind Ray Serve, with `generate` for one request at a time. Every server runs in
processes of its own and the clients in this process, all on the same cores.
"""

import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiohttp
import psutil
import typer
import yaml

from benchmarks.backfill_catalogue import write_untrained_adapter
from benchmarks.report import Record, Results, markdown
from xrec.backfill import read_explanations
from xrec.config.prompt import PromptConfig
from xrec.data import read_dataset
from xrec.graph.artifact import read_graph
from xrec.storage import open_location

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Ask = Callable[[aiohttp.ClientSession, int], Awaitable[float]]
"""Asks for the pair of a number; returns the time of the first token (perf_counter), or 0."""

_WARM_UP = 3


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    seconds_to_ready: float
    process: psutil.Process

    def memory(self) -> dict[str, float]:
        """Return MiB by kind of process, private and shared pages of the largest one of a kind."""
        found: dict[str, float] = {}
        for process in self.process.children(recursive=True):
            name = " ".join(process.cmdline())[:60]
            kind = next(
                (
                    kind
                    for kind in ("Generator", "Frontend", "Plain", "ProxyActor", "ServeController")
                    if kind in name
                ),
                None,
            )
            if kind is not None:
                found[kind] = max(found.get(kind, 0.0), process.memory_info().rss / 2**20)
        return found


@app.command()
def run(
    workspace: Annotated[
        str,
        typer.Argument(
            help="Folder with the artifacts dataset, graph and, for hits, explanations."
        ),
    ],
    llm: Annotated[str, typer.Option(help="The language model of the adapter.")],
    adapter: Annotated[
        str | None, typer.Option(help="Folder of the adapter; by default <workspace>/adapter.")
    ] = None,
    explanations: Annotated[
        str | None,
        typer.Option(
            help="Folder of the adapter's backfill, which may be empty; by default "
            "<workspace>/explanations."
        ),
    ] = None,
    what: Annotated[
        list[str] | None, typer.Option(help="Any of hits, live, stream, plain; by default all.")
    ] = None,
    clients: Annotated[
        list[int] | None, typer.Option(help="Clients at a time; by default 1, 4 and 16.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long each number of clients asks.")
    ] = 15.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest text, in tokens.")] = 40,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of the model.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and table.md.")] = Path(
        "workspace/benchmarks/serve"
    ),
) -> None:
    """Measure latency and throughput at each number of clients, the time to ready, and memory."""
    config = {
        "workspace": str(Path(workspace).resolve()),
        **{
            name: str(Path(uri).resolve())
            for name, uri in (("adapter", adapter), ("explanations", explanations))
            if uri
        },
        "llm": {"model": llm, "dtype": dtype},
        "decoding": {
            "max_new_tokens": max_new_tokens,
            "text": {"max_phrase_repeats": None, "max_echo_tokens": None, "max_words": None},
        },
        "models": {"cpus_per_replica": threads, "device": "cpu"},
    }
    wanted, results, rows = (
        what or ["hits", "live", "stream", "plain"],
        Results(output),
        list[Record](),
    )
    for modules, kinds in (
        (("xrec.cli", "serve"), ("hits", "live", "stream")),
        (("benchmarks.serve_plain",), ("plain",)),
    ):
        if not set(kinds) & set(wanted):
            continue
        with _server(modules, config) as server:
            for kind in [kind for kind in kinds if kind in wanted]:
                for num_clients in clients or [1, 4, 16]:
                    row = asyncio.run(
                        _measure(kind, _ask(kind, server.url, config), num_clients, seconds)
                    )
                    row |= {
                        "seconds_to_ready": round(server.seconds_to_ready, 1),
                        **{f"{name} MiB": round(mib) for name, mib in server.memory().items()},
                    }
                    results.append({"kind": "serve", "config": config, "row": row})
                    rows.append(row)
                    typer.echo(json.dumps(row))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = markdown([{name: row.get(name, "") for name in columns} for row in rows])
    (output / "table.md").write_text(table)
    typer.echo(f"\n{table}")


@app.command()
def untrained_adapter(
    workspace: Annotated[str, typer.Argument(help="Folder with dataset and graph.")],
    llm: Annotated[str, typer.Option(help="The language model that it is for.")],
    output: Annotated[str, typer.Option(help="Where it is written.")],
) -> None:
    """Write an adapter of fresh weights, which costs as much time as a trained one."""
    graph = read_graph(open_location(f"{workspace}/graph"))
    write_untrained_adapter(open_location(output), llm, graph, PromptConfig())


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
            asyncio.run(_ready(f"http://127.0.0.1:{port}/readyz", process, Path(folder) / "log"))
            yield Server(
                f"http://127.0.0.1:{port}", time.monotonic() - started, psutil.Process(process.pid)
            )
        finally:
            process.terminate()
            process.wait(120)


async def _ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"the server ended:\n{log.read_text()[-3000:]}")


def _ask(kind: str, url: str, config: Record) -> Ask:
    pairs = _pairs(kind, config)
    random.Random(0).shuffle(pairs)

    async def hit(session: aiohttp.ClientSession, number: int) -> float:
        user, item = pairs[number % len(pairs)]
        async with session.get(f"{url}/v1/explanations/{user}/{item}") as response:
            assert (await response.json())["source"] == "backfill"
        return 0.0

    async def live(session: aiohttp.ClientSession, number: int) -> float:
        user, item = pairs[number % len(pairs)]
        async with session.post(
            f"{url}/v1/explanations",
            json={"pairs": [{"user_id": user, "item_id": item, "fresh": True}]},
        ) as response:
            assert "explanation" in (await response.json())["explanations"][0], (
                await response.text()
            )
        return 0.0

    async def stream(session: aiohttp.ClientSession, number: int) -> float:
        user, item = pairs[number % len(pairs)]
        first = 0.0
        async with session.post(
            f"{url}/v1/explanations/stream",
            json={"pairs": [{"user_id": user, "item_id": item, "fresh": True}]},
        ) as response:
            async for line in response.content:
                if line.startswith(b"event: token"):
                    first = first or time.perf_counter()
        return first

    return {"hits": hit, "live": live, "stream": stream, "plain": live}[kind]


def _pairs(kind: str, config: Record) -> list[tuple[str, str]]:
    if kind == "hits":
        uri = config.get("explanations") or f"{config['workspace']}/explanations"
        table = read_explanations(uri)
        return list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    dataset = read_dataset(open_location(f"{config['workspace']}/dataset"))
    users, items = (
        dataset.users["user_id"].to_pylist()[:400],
        dataset.items["item_id"].to_pylist()[:40],
    )
    return [(user, item) for user in users for item in items]


async def _measure(kind: str, ask: Ask, num_clients: int, seconds: float) -> Record:
    latencies: list[float] = []
    firsts: list[float] = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=num_clients), timeout=aiohttp.ClientTimeout(total=600)
    ) as session:
        for number in range(_WARM_UP):
            await ask(session, number)
        started = time.perf_counter()

        async def client(number: int) -> None:
            while time.perf_counter() < started + seconds:
                at = time.perf_counter()
                first = await ask(session, number)
                latencies.append(time.perf_counter() - at)
                firsts.extend([first - at] if first else [])
                number += num_clients

        await asyncio.gather(*(client(_WARM_UP + number) for number in range(num_clients)))
        took = time.perf_counter() - started
    row = {
        "what": kind,
        "clients": num_clients,
        "requests": len(latencies),
        "requests a second": round(len(latencies) / took, 2),
    }
    row |= {
        f"p{share} ms": round(1000 * _percentile(latencies, share), 1) for share in (50, 95, 99)
    }
    return row | (
        {"first token p50 ms": round(1000 * _percentile(firsts, 50), 1)} if firsts else {}
    )


def _percentile(values: list[float], share: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


if __name__ == "__main__":
    app()

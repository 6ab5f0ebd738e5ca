"""The endpoint under load: `python -m benchmarks.serve run WORKSPACE`, from the repository's root.

1, 4 and 16 clients ask for one pair after the other, each over a connection that stays open. `hits`
are pairs of the backfill, and `live` ones are generated (`fresh`). `plain` is what one would write
first: the same model and adapter behind Ray Serve, with `generate` for one request at a time. Every
server runs in processes of its own and the clients in this process, all on the same cores.
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
import torch
import typer
import yaml

from benchmarks.report import Record, Results, markdown
from xrec.adapter.artifact import write_adapter
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import build_adapters
from xrec.backfill import read_explanations
from xrec.config.adapter import AdapterModelConfig
from xrec.config.prompt import PromptConfig
from xrec.data import read_dataset
from xrec.graph.artifact import read_graph
from xrec.llm.model import read_text_config
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import open_location

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Ask = Callable[[aiohttp.ClientSession, int], Awaitable[None]]
"""Asks for the pair of a number."""

_WARM_UP = 3


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    seconds_to_ready: float
    process: psutil.Process

    def memory(self) -> dict[str, float]:
        """MiB by kind of process, private and shared pages of the largest one of a kind."""
        found: dict[str, float] = {}
        for process in self.process.children(recursive=True):
            name = " ".join(process.cmdline())[:60]
            for kind in ("Generator", "Frontend", "Plain"):
                if kind in name:
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
        list[str] | None, typer.Option(help="Any of hits, live, plain; by default all.")
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
            "text": {"refuses_repetition": False, "max_words": None},
        },
        "models": {"cpus_per_replica": threads, "device": "cpu"},
    }
    wanted, results, rows = (
        what or ["hits", "live", "plain"],
        Results(output),
        list[Record](),
    )
    for modules, kinds in (
        (("xrec.cli", "serve"), ("hits", "live")),
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
    graph, folder = read_graph(open_location(f"{workspace}/graph")), resolve_model(llm)
    inputs = {"graph": graph.manifest.fingerprint, "base_model": model_fingerprint(folder)}
    model = AdapterModelConfig()
    sizes = {
        "embedding_dim": graph.users.shape[1],
        "hidden_size": int(read_text_config(folder).hidden_size),
    }
    config = AdapterConfig(
        **sizes,
        model=model,
        prompt=PromptConfig(),
        base_model=llm,
        base_model_fingerprint=inputs["base_model"],
        graph_fingerprint=inputs["graph"],
    )
    torch.manual_seed(0)
    weights, place = build_adapters(model, **sizes).state_dict(), open_location(output)
    write_adapter(place, weights, config, run_config={}, inputs=inputs, metrics={}, extra_files={})


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
    shares = {
        f"p{share} ms": round(1000 * _percentile(latencies, share), 1) for share in (50, 95, 99)
    }
    rate = round(len(latencies) / took, 2)
    counts = {"clients": num_clients, "requests": len(latencies)}
    return {"what": kind, **counts, "requests a second": rate, **shares}


def _percentile(values: list[float], share: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


if __name__ == "__main__":
    app()

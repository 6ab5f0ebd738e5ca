"""Measure how much of an endpoint's limit a process uses, and whether its memory stays flat.

    python -m benchmarks.endpoint --prompts 100000

A local server takes 50 ms for each request and serves at most `--concurrency` at a time, so that
its limit is concurrency / 0.05 requests per second. Contestants, one process each:

- ours: the engine of backfills (`EndpointCore`) with the workspace's store of replies
- openai: the client that ours uses, without a store: as many tasks as the server serves at a time

Columns: requests per second; share of the limit; most requests in flight; CPU seconds of the
contestant; MiB of its memory when a tenth of the replies are there, and at the end.
"""

import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.report import Output, Record, Results, command_line, known

SECONDS = 0.05
REPLY = {"message": {"role": "assistant", "content": "You would like it for its quiet garden."}}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "stub",
    "choices": [{"index": 0, "finish_reason": "stop", **REPLY}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 9, "total_tokens": 69},
}
app = command_line()


def serve(ours: Connection) -> None:
    """Serve until the process is killed; sends the port, then for any message the most at once."""
    import uvicorn

    body, state = json.dumps(ANSWER).encode(), {"now": 0, "most": 0}
    start = {"type": "http.response.start", "status": 200}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(SECONDS)
        state["now"] -= 1
        headers = [(b"content-type", b"application/json")]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def run() -> None:
        config = uvicorn.Config(answer, host="127.0.0.1", port=0, log_level="critical")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ours.send(server.servers[0].sockets[0].getsockname()[1])
        asyncio.get_running_loop().add_reader(
            ours.fileno(), lambda: ours.send((ours.recv(), state["most"]))
        )
        await running

    asyncio.run(run())


def prompts(number: int) -> Iterator[str]:
    """Yield different prompts of some sixty words."""
    about = "a homely tea room with a garden, dogs welcome, fresh pastries and a river view; " * 3
    yield from (f"Why would user {n} like item {n % 977}, {about}?" for n in range(number))


def ours(url: str, number: int, concurrency: int, tell: Callable[[int], None]) -> None:
    """Send the prompts as a backfill does."""
    from xrec.config import EndpointConfig, JobConfig
    from xrec.generate.engine import TextParams
    from xrec.text.endpoint_engine import EndpointCore, WordTokenizer
    from xrec.text.reply_store import open_replies

    config = EndpointConfig(
        kind="endpoint",
        base_url=url,
        model="stub",
        api_key_variable=None,
        concurrency=concurrency,
    )
    with tempfile.TemporaryDirectory() as folder:
        job = JobConfig(workspace=folder)
        replies = open_replies(job, {"model": "stub"}, run="run", at_once=concurrency)
        tokenizer = WordTokenizer()
        core = EndpointCore(config, None, tokenizer, replies)
        waiting, num_done, num_sent = prompts(number), 0, 0
        while num_done < number:
            while num_sent < min(number, num_done + 2 * concurrency):
                prompt = next(waiting)
                params = TextParams(user_id=prompt.split()[3])
                num_sent = core.add(tokenizer(prompt)["input_ids"], params)
            num_done += len(core.step())
            tell(num_done)
        replies.flush()


def openai(url: str, number: int, concurrency: int, tell: Callable[[int], None]) -> None:
    """Send the prompts from as many tasks as the server serves at a time."""
    from openai import AsyncOpenAI

    num_done = 0

    async def task(client: AsyncOpenAI, waiting: Iterator[str]) -> None:
        nonlocal num_done
        for prompt in waiting:
            await client.chat.completions.create(
                model="stub",
                messages=[{"role": "user", "content": prompt}],
                max_completion_tokens=80,
                temperature=0,
            )
            num_done += 1
            tell(num_done)

    async def run() -> None:
        waiting = prompts(number)
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            await asyncio.gather(*(task(client, waiting) for _ in range(concurrency)))

    asyncio.run(run())


CONTESTANTS = {"ours": ours, "openai": openai}


def measure(name: str, url: str, number: int, concurrency: int, results: Connection) -> None:
    """Run a contestant in this process, and send its record."""
    memory: list[float] = []

    def tell(num_done: int) -> None:
        if not memory and num_done * 10 >= number:
            memory.append(psutil.Process().memory_info().rss / 2**20)

    began_at = time.monotonic()
    CONTESTANTS[name](url, number, concurrency, tell)
    seconds, used = time.monotonic() - began_at, os.times()
    results.send(
        {
            "contestant": name,
            "prompts": number,
            "concurrency": concurrency,
            "per_second": number / seconds,
            "share": number / seconds / (concurrency / SECONDS),
            "cpu_seconds": used.user + used.system,
            "mib_at_a_tenth": memory[0],
            "mib_at_the_end": psutil.Process().memory_info().rss / 2**20,
        }
    )


@app.command(help=__doc__)
def run(
    prompts: Annotated[int, typer.Option(min=100, help="How many.")] = 100_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    contestant: Annotated[list[str] | None, typer.Option(help="Which run; by default all.")] = None,
    output: Output = Path("workspace/benchmarks/endpoint"),
) -> None:
    """Run the contestants, each with a server of its own."""
    context = multiprocessing.get_context("spawn")
    for name in known(contestant, list(CONTESTANTS), "contestant"):
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(there,), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{here.recv()}/v1"
        got, sent = context.Pipe(duplex=False)
        worker = context.Process(target=measure, args=(name, url, prompts, concurrency, sent))
        worker.start()
        record: Record = got.recv()
        worker.join()
        here.send("most")
        record["in_flight"] = here.recv()[1]
        server.kill()
        Results(output).append("endpoint", record)


if __name__ == "__main__":
    app()

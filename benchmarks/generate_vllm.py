"""Text-only throughput of vLLM: `PYTHON benchmarks/generate_vllm.py MODEL PROMPTS RESULT`.

PYTHON is any interpreter that has vLLM; nothing of xrec is imported. PROMPTS is a JSON list of
lists of token ids of the text vocabulary. End tokens are ignored, so that every completion has the
same length. RESULT gets one JSON object.
"""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer


def main(
    model: Annotated[Path, typer.Argument(help="Folder of the language model.")],
    prompts: Annotated[
        Path, typer.Argument(help="JSON file: a list of prompts, each a list of token ids.")
    ],
    result: Annotated[
        Path, typer.Argument(help="JSON file that is written: settings and what was measured.")
    ],
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every completion.")] = 48,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    core: Annotated[
        int, typer.Option(min=0, help="CPU core that the one thread of the model is bound to.")
    ] = 0,
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache, GiB.")] = 2.0,
    block_size: Annotated[
        int,
        typer.Option(
            help="Tokens of a block of the cache; the prefix cache finds whole blocks only. vLLM's "
            "default on a CPU is 128."
        ),
    ] = 32,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Most completions at a time; by default vLLM's default.")
    ] = None,
    prefix_caching: Annotated[
        bool, typer.Option(help="vLLM's prefix cache, empty at the start.")
    ] = True,
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            help="How often the prompts are run, each time from an empty prefix cache; the best "
            "round counts.",
        ),
    ] = 2,
) -> None:
    """Measure pairs a second, tokens a second and the CPU seconds of all processes."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
    }  # before vLLM is imported
    from vllm import LLM, SamplingParams
    from vllm import __version__ as version

    started = time.perf_counter()
    llm = LLM(
        model=str(model),
        dtype=dtype,
        kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
        block_size=block_size,
        enable_prefix_caching=prefix_caching,
        skip_tokenizer_init=True,
        **({} if max_num_seqs is None else {"max_num_seqs": max_num_seqs}),
    )
    ids = json.loads(prompts.read_text())
    sampling = SamplingParams(
        max_tokens=new_tokens, temperature=0.0, ignore_eos=True, detokenize=False
    )
    start_seconds = time.perf_counter() - started
    best = max(
        (_round(llm, ids, sampling) for _ in range(rounds)),
        key=lambda measured: measured["pairs_per_second"],
    )
    settings = {
        "dtype": dtype,
        "block_size": block_size,
        "prefix_caching": prefix_caching,
        "new_tokens": new_tokens,
        "rounds": rounds,
    }
    result.write_text(
        json.dumps({"vllm": version, **settings, "start_seconds": start_seconds, **best}, indent=2)
        + "\n"
    )


def _round(llm: Any, prompts: list[list[int]], sampling: Any) -> dict[str, float]:
    llm.reset_prefix_cache()
    cpu, started = _cpu_seconds(), time.perf_counter()
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False
    )
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    assert {len(output.outputs[0].token_ids) for output in outputs} == {sampling.max_tokens}
    num_prompt_tokens, num_new = sum(map(len, prompts)), len(prompts) * sampling.max_tokens
    return {
        "num_pairs": len(prompts),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "pairs_per_second": len(prompts) / seconds,
        "pairs_per_cpu_second": len(prompts) / cpu,
        "prompt_tokens_per_second": num_prompt_tokens / seconds,
        "new_tokens_per_second": num_new / seconds,
        "prefix_hit_share": sum(output.num_cached_tokens or 0 for output in outputs)
        / num_prompt_tokens,
        "resident_gib": sum(process.memory_info().rss for process in _processes()) / 2**30,
    }


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of vLLM's processes."""
    seconds: float = sum(
        times.user + times.system for times in (process.cpu_times() for process in _processes())
    )
    return seconds


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


if __name__ == "__main__":
    typer.run(main)

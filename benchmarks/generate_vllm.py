"""Text alone by vLLM: `PYTHON benchmarks/generate_vllm.py MODEL PROMPTS RESULT NEW_TOKENS DTYPE`.

PYTHON is any interpreter that has vLLM; nothing of xrec is imported. PROMPTS is a JSON list of
lists of token ids. End tokens are ignored, so that every text has the same length. vLLM has one
thread on one core, and its prefix cache, empty at the start of each round; the better of two rounds
goes into RESULT, a JSON object. CPU seconds are of all of its processes.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_NUM_ROUNDS, _KV_CACHE_BYTES = 2, 2 * 2**30
_BLOCK_SIZE = 32  # vLLM's default on a CPU is 128; the prefix cache finds whole blocks only


def main(model: str, prompts: str, result: str, new_tokens: str, dtype: str) -> None:
    """Measure the rounds, and write the better one."""
    # Before vLLM is imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype=dtype,
        kv_cache_memory_bytes=_KV_CACHE_BYTES,
        block_size=_BLOCK_SIZE,
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
    )
    sampling = SamplingParams(
        max_tokens=int(new_tokens), temperature=0.0, ignore_eos=True, detokenize=False
    )
    ids = json.loads(Path(prompts).read_text())
    rounds = [_round(llm, ids, sampling) for _ in range(_NUM_ROUNDS)]
    best = max(rounds, key=lambda measured: measured["pairs/s"])
    Path(result).write_text(json.dumps(best))


def _round(llm: Any, prompts: list[list[int]], sampling: Any) -> dict[str, float]:
    llm.reset_prefix_cache()
    cpu, began = _cpu_seconds(), time.perf_counter()
    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(given, sampling, use_tqdm=False)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - cpu
    assert {len(output.outputs[0].token_ids) for output in outputs} == {sampling.max_tokens}
    num_cached = sum(output.num_cached_tokens or 0 for output in outputs)
    return {
        "pairs/s": round(len(prompts) / seconds, 3),
        "pairs/CPU s": round(len(prompts) / cpu, 3),
        "tokens/s": round(len(prompts) * sampling.max_tokens / seconds, 1),
        "CPU seconds": round(cpu, 3),
        "peak GiB": round(sum(each.memory_info().rss for each in _processes()) / 2**30, 2),
        "prefix hits": round(num_cached / sum(map(len, prompts)), 3),
    }


def _cpu_seconds() -> float:
    times = [process.cpu_times() for process in _processes()]
    return float(sum(each.user + each.system for each in times))


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])

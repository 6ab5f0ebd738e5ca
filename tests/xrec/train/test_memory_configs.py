"""The sums of memory in the comments of configs/ are those of xrec.train.memory."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.project import load_config
from xrec.train.memory import Load, empty_model, num_trained_parameters, shape_of, worker_memory
from xrec.train.micro_batch import chosen_size

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = {
    "weights": "weights",
    "gathered for use": "whole_for_use",
    "whole for use": "whole_for_use",
    "activations": "activations",
    "logits": "logits",
    "adapters, optimizer": "adapters_and_optimizer",
    "DeepSpeed's buffer": "gradient_buffer",
    "prefix cache": "prefix_cache",
}
WIDE: dict[str, Any] = {"hidden_size": 4096, "num_attention_heads": 32}
LLAMA_2 = LlamaConfig(
    vocab_size=32000, intermediate_size=11008, num_hidden_layers=32, num_key_value_heads=32, **WIDE
)
LLAMA_3 = LlamaConfig(
    vocab_size=128256, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8, **WIDE
)
QWEN_3 = Qwen3Config(
    vocab_size=151936,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
    **WIDE,
)


def figures_of(config: TrainAdapterConfig, model: PreTrainedConfig, stage: int) -> dict[str, str]:
    """Return the parts and the sum in GB, for rows that are as long as the config allows."""
    training, row = config.training, config.training.max_explanation_tokens
    longest = config.prompt.max_prompt_tokens + row
    shape = shape_of(empty_model(model))
    load = Load(
        micro_batch_size=chosen_size(config),
        longest_row=longest,
        longest_rest=longest,
        longest_explanation=row,
        num_trained=num_trained_parameters(config.model, embedding_dim=64, hidden_size=4096),
        dtype_bytes=2,
        gradient_checkpointing=training.gradient_checkpointing,
        prefix_cache_bytes=int(training.prefix_cache_gib * 2**30),
        max_live_parameters=config.deepspeed.max_live_parameters,
        is_int8=config.llm.quantization == "int8",
    )
    memory = worker_memory(shape, load, stage=stage, num_workers=config.scaling.num_workers)
    return {
        name: f"{value / 1e9:.2f}"
        for name, value in {**memory.parts, "total": memory.total}.items()
    }


def comment_before(path: Path, section: str) -> str:
    """Return the comment block that ends where `section` begins."""
    before = path.read_text().split(f"\n{section}:")[0]
    return before[before.rindex("\n\n") :]


@pytest.mark.parametrize(
    ("name", "overrides", "model", "stage"),
    [
        ("llama2-7b", ["training.micro_batch_size=4"], LLAMA_2, 3),
        ("xrec-paper", [], LLAMA_2, 1),
    ],
    ids=["llama2-7b", "xrec-paper"],
)
def test_sum_worked_out_in_a_config_is_that_of_worker_memory(
    name: str, overrides: list[str], model: PreTrainedConfig, stage: int
) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = load_config(TrainAdapterConfig, path, overrides)
    expected = figures_of(config, model, stage)
    comment = comment_before(path, "train-adapter")
    parts = re.split(r"\n#   (?=\S)", comment)
    seen = {}
    for part in parts:
        for label, key in NAMES.items():
            if part.startswith(label + "  "):
                seen[key] = re.findall(r"= +(\d+\.\d\d)(?:\n|$)", part + "\n")[-1]
        if part.startswith("sum  "):
            seen["total"] = re.findall(r"\d+\.\d\d", part)[0]
    assert seen == {key: expected[key] for key in seen}
    assert len(seen) == 8


COLUMNS: list[list[str]] = [
    ["training.micro_batch_size=2", "training.gradient_checkpointing=true"],
    ["training.micro_batch_size=8"],
    ["training.micro_batch_size=4", "scaling.num_workers=8"],
]


@pytest.mark.parametrize(
    ("name", "model"),
    [("llama3-8b", LLAMA_3), ("qwen3-8b", QWEN_3)],
    ids=["llama3-8b", "qwen3-8b"],
)
def test_table_of_a_config_for_three_set_ups_is_that_of_worker_memory(
    name: str, model: PreTrainedConfig
) -> None:
    path = CONFIGS / f"{name}.yaml"
    head = path.read_text().split("\nworkspace:")[0]
    assert f"24 GB        {' '.join(COLUMNS[0])}" in head
    assert f"80 GB        {' '.join(COLUMNS[1])}" in head
    assert f"8 of 80 GB   {' '.join(COLUMNS[2])}" in head
    columns = [
        figures_of(load_config(TrainAdapterConfig, path, overrides), model, 1)
        for overrides in COLUMNS
    ]
    comment = comment_before(path, "train-adapter")
    rows = {**NAMES, "sum": "total"}
    del rows["gathered for use"], rows["whole for use"]
    for label, key in rows.items():
        (line,) = re.findall(rf"\n#   {label}((?: +\d+\.\d\d)+)", comment)
        assert line.split() == [figures[key] for figures in columns], label
    assert float(columns[0]["total"]) < 24 - 4
    assert max(float(column["total"]) for column in columns[1:]) < 80 - 8
    parameters = f"{empty_model(model).num_parameters():,}"
    assert parameters in comment

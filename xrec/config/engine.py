"""What generates texts, and with how much memory."""

from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config

PromptFailure = Literal[
    "empty_prompt",
    "token_out_of_range",
    "prompt_too_long",
    "over_memory_budget",
    "no_token_allowed",
    "invalid_logits",
    "unsupported_request",
]
"""Why a prompt cannot be completed."""


class EngineConfig(Config):
    """How texts are generated.

    Texts do not depend on it, but for int8, for near ties of logits in bfloat16, and for what the
    seed draws.
    """

    kind: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="The engine. auto takes vllm on a GPU if the extra xrec[vllm] is installed "
        "and vLLM knows the model's family, else transformers, which is xrec's own and "
        "made for CPUs; the log says which and why.",
    )
    max_rows: int = Field(
        128,
        ge=1,
        description="Largest number of prompts that are worked on together. On a CPU, more "
        "than 128 gain little.",
    )
    key_value_gib: float = Field(
        2.0,
        gt=0,
        description="GiB for keys and values, which are set aside once. Each text takes what it "
        "needs; if not all of max_rows find room, fewer are worked on. A prompt that needs more "
        "for itself alone fails. With vllm on a GPU it has no effect: see gpu_memory_share.",
    )
    gpu_memory_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="With vllm on a GPU: the share of the memory that is free when the engine "
        "starts, for the model and, with all that is left, keys and values.",
    )
    linear_layers: Literal["packed", "plain", "int8"] = Field(
        "packed",
        description="How linear layers are computed by the engine transformers on a CPU. "
        "packed holds the weights a second time, in the order of oneDNN, and "
        "makes float32 products up to twice as fast. int8 multiplies 8-bit "
        "integers, which is faster still; texts are other ones and a little worse "
        "(docs/log has the figures). plain leaves them to torch.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="With vllm: number of processes, and of GPUs where they are used, that "
        "share the model of one actor.",
    )
    vllm_options: dict[str, Any] = Field(
        default_factory=dict,
        description="With vllm: further arguments of its EngineArgs, such as "
        "{max_num_batched_tokens: 16384}. Those that would break users and items are refused "
        "with the reason.",
    )

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "EngineConfig":
        if self.kind == "vllm" and self.linear_layers == "int8":
            raise ValueError(
                "linear_layers = 'int8' needs kind = 'transformers', saw 'vllm'; "
                "give vLLM a quantized model instead"
            )
        if self.kind == "transformers" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"tensor_parallel_size = {self.tensor_parallel_size} needs kind = 'vllm', "
                "saw 'transformers'"
            )
        if self.kind == "transformers" and self.vllm_options:
            raise ValueError(
                f"vllm_options = {self.vllm_options} needs kind = 'vllm', saw 'transformers'"
            )
        return self


class OwnEngineConfig(EngineConfig):
    """The engine where it is always xrec's own.

    Of a job that loads one model after the other in its own process: vLLM's processes would still
    hold the memory of the model before. And of a model that has no users and items: vLLM has an
    endpoint of its own for it.
    """

    kind: Literal["transformers"] = Field("transformers", description="The engine.")

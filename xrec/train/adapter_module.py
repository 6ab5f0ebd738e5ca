"""What DeepSpeed trains: the frozen language model with its adapters, as one module from a batch to a loss."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from xrec.adapter.model import Adapters, embedding_scale
from xrec.config.adapter import DeepSpeedConfig, LearningRateConfig, TrainAdapterConfig
from xrec.errors import ModelError
from xrec.llm.examples import Example, collate, token_nll
from xrec.train.prefix_cache import PrefixCache


class ExplanationLoss(nn.Module):
    """Sum of the NLL of the examples' labels, in nats: the explanations' tokens and their end tokens, nothing else.

    The forward pass is split at each prompt's first collaborative token: what comes before has no gradient and is taken from
    `prefixes`.
    """

    def __init__(self, model: PreTrainedModel, prefixes: PrefixCache):
        super().__init__()
        self.model = model
        self.prefixes = prefixes

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """A scalar."""
        past, rest = self.prefixes.split(self.model, examples)
        return token_nll(self.model, collate(rest).to(self.model.device), past).sum()

    def train(self, mode: bool = True) -> "ExplanationLoss":
        """Training mode is for the adapters; the frozen model stays in eval mode (no dropout)."""
        super().train(mode)
        self.model.eval()
        embedding = self.model.get_input_embeddings()
        embedding.user_adapter.train(mode)
        embedding.item_adapter.train(mode)
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                layer.training = mode  # what transformers asks before it checkpoints; its parts stay in eval mode
        return self


def checkpoint_layers(model: PreTrainedModel) -> None:
    """From now on each layer keeps only its input in training, and computes the rest again for the gradients.

    Raises ModelError if the model's layers cannot.
    """
    try:
        model.activation_checkpointing_enable(
            {"use_reentrant": False}
        )  # reentrant checkpointing loses the gradient of the injected vectors
    except ValueError as error:
        raise ModelError(f"{error} set training.gradient_checkpointing=false") from error
    model.disable_input_require_grads()  # the adapted vectors in the input have a gradient anyway


def learning_rate_share(rate: LearningRateConfig, num_steps: int) -> Callable[[int], float]:
    """From a step, 0 to num_steps - 1, to its share of the peak rate: linear warm-up, then linear decay, above zero at each step.

    DeepSpeed's WarmupDecayLR begins with two steps at zero.
    """
    num_warmup_steps = max(1, round(rate.warmup_share * num_steps))
    return lambda step: min(
        (step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1)
    )


def deepspeed_config(
    config: TrainAdapterConfig, *, dtype: torch.dtype, world_size: int
) -> dict[str, Any]:
    """DeepSpeed's own configuration; the global batch is the same for any number of workers."""
    training = config.training
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": math.ceil(
            training.global_batch_size / (training.micro_batch_size * world_size)
        ),
        "gradient_clipping": config.deepspeed.gradient_clipping,
        "zero_optimization": _zero_optimization(config.deepspeed),
        "zero_force_ds_cpu_optimizer": False,  # else offload takes DeepSpeed's own Adam, which is compiled at first use
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 1_000_000_000,
    }


def _zero_optimization(config: DeepSpeedConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        settings["stage3_param_persistence_threshold"] = config.param_persistence_threshold
        settings["stage3_max_live_parameters"] = settings["stage3_max_reuse_distance"] = (
            config.max_live_parameters
        )
    if config.offload != "none":
        device: dict[str, Any] = {"device": config.offload, "pin_memory": torch.cuda.is_available()}
        if config.offload_path is not None:
            device["nvme_path"] = config.offload_path
        settings |= {"offload_optimizer": device} | (
            {"offload_param": device} if config.zero_stage == 3 else {}
        )
    return settings


def sharded_loading(
    config: TrainAdapterConfig, settings: dict[str, Any]
) -> HfDeepSpeedConfig | None:
    """At stage 3: while the returned object lives, `from_pretrained` keeps only this worker's shard of each weight."""
    return HfDeepSpeedConfig(settings) if config.deepspeed.zero_stage == 3 else None


def gathered_state(adapters: Adapters) -> dict[str, Tensor]:
    """The adapters' whole tensors, whatever the ZeRO stage; every worker must call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(
        [*adapters.user.parameters(), *adapters.item.parameters()]
    ):
        return {name: tensor.clone() for name, tensor in adapters.state_dict().items()}


def gathered_embedding_scale(model: PreTrainedModel) -> float:
    """`xrec.adapter.model.embedding_scale`, whatever the ZeRO stage; every worker must call it, before adapters are attached."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.get_input_embeddings().parameters())):
        return embedding_scale(model)

"""What DeepSpeed trains: the frozen language model with its adapters, as one module from a batch to a loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from xrec.adapter.model import Adapters, embedding_scale
from xrec.config import LearningRateConfig, TrainAdapterConfig
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
        return self


def learning_rate_share(rate: LearningRateConfig, num_steps: int) -> Callable[[int], float]:
    """From a step, 0 to num_steps - 1, to its share of the peak rate: linear warm-up, then linear decay, above zero at each step.

    DeepSpeed's WarmupDecayLR begins with two steps at zero.
    """
    num_warmup_steps = max(1, round(rate.warmup_share * num_steps))
    return lambda step: min((step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1))


def deepspeed_config(config: TrainAdapterConfig, *, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    training, scaling = config.training, config.scaling
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.global_batch_size // (training.micro_batch_size * scaling.num_workers),
        "gradient_clipping": config.deepspeed.gradient_clipping,
        "zero_optimization": {
            "stage": config.deepspeed.zero_stage,
            "stage3_param_persistence_threshold": config.deepspeed.param_persistence_threshold,
        },
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 1_000_000_000,
    }


def sharded_loading(config: TrainAdapterConfig, settings: dict[str, Any]) -> HfDeepSpeedConfig | None:
    """At stage 3: while the returned object lives, `from_pretrained` keeps only this worker's shard of each weight."""
    return HfDeepSpeedConfig(settings) if config.deepspeed.zero_stage == 3 else None


def gathered_state(adapters: Adapters) -> dict[str, Tensor]:
    """The adapters' whole tensors, whatever the ZeRO stage; every worker must call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([*adapters.user.parameters(), *adapters.item.parameters()]):
        return {name: tensor.clone() for name, tensor in adapters.state_dict().items()}


def gathered_embedding_scale(model: PreTrainedModel) -> float:
    """`xrec.adapter.model.embedding_scale`, whatever the ZeRO stage; every worker must call it, before adapters are attached."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.get_input_embeddings().parameters())):
        return embedding_scale(model)

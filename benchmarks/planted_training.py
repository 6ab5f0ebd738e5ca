"""One variant trained in this process: the job's own module, batches, schedule and clipping, in a plain AdamW loop.

What `xrec train-adapter` computes on one worker, without Ray and DeepSpeed; tests/benchmarks/test_planted.py compares the two.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.planted_data import Town
from xrec.adapter.model import Adapters, attach_adapters, build_adapters, embedding_scale
from xrec.adapter.vectors import input_vectors
from xrec.config import TrainAdapterConfig
from xrec.llm.examples import Example, collate
from xrec.llm.model import load_model, resolve_dtype
from xrec.train.adapter_batches import epoch_steps, validation_batches
from xrec.train.adapter_module import ExplanationLoss, learning_rate_share

_CPU = torch.device("cpu")


class SoftToken(nn.Module):
    """One learned vector in R^H, whatever the input (N, D): the plainest soft prompt, to see that vectors=constant is no weaker."""

    def __init__(self, hidden_size: int, scale: float):
        super().__init__()
        self.value = nn.Parameter(torch.randn(hidden_size) * scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, H)."""
        return self.value.expand(len(vectors), -1)


@dataclass(frozen=True)
class Trained:
    """The model with the adapters of the best epoch, and a row of losses an epoch."""

    model: PreTrainedModel
    history: list[dict[str, Any]]


def load_frozen(town: Town, config: TrainAdapterConfig) -> PreTrainedModel:
    """The language model as the job loads it."""
    return load_model(town.llm, dtype=resolve_dtype(config.llm.dtype, _CPU), device=_CPU, attn_implementation=config.llm.attn_implementation)


def train(town: Town, config: TrainAdapterConfig, train: Sequence[Example], validation: Sequence[Example], *, soft_tokens: bool = False) -> Trained:
    """Train as `config` says, and keep the epoch of the best validation loss. `soft_tokens`: learned vectors instead of adapters."""
    model = load_frozen(town, config)
    adapters = _attach(model, town, config, soft_tokens)
    parts = nn.ModuleList([adapters.user, adapters.item])
    module = ExplanationLoss(model)
    steps_per_epoch = len(train) // config.training.global_batch_size
    num_steps = min(config.training.max_steps or steps_per_epoch * config.training.num_epochs, steps_per_epoch * config.training.num_epochs)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=config.training.learning_rate.peak, weight_decay=config.training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_share(config.training.learning_rate, num_steps))
    torch.manual_seed(config.training.seed + 1)
    history: list[dict[str, Any]] = []
    best = copy.deepcopy(parts.state_dict())
    for epoch in range(1, config.training.num_epochs + 1):
        done = sum(row["steps"] for row in history)
        train_loss, steps = _epoch(module, parts, optimizer, schedule, train, config, epoch, max_steps=num_steps - done)
        history.append({"epoch": epoch, "steps": steps, "train_loss": train_loss, "validation_loss": _validate(module, validation, config)})
        losses = [row["validation_loss"] for row in history]
        if min(losses) == losses[-1]:
            best = copy.deepcopy(parts.state_dict())
        if len(losses) - 1 - losses.index(min(losses)) >= config.training.patience or done + steps >= num_steps:
            break
    parts.load_state_dict(best)
    module.eval()
    return Trained(model, history)


def _attach(model: PreTrainedModel, town: Town, config: TrainAdapterConfig, soft_tokens: bool) -> Adapters:
    scale, hidden_size = embedding_scale(model), int(model.config.hidden_size)
    users, items = input_vectors(config.model, town.graph.users, town.graph.items)
    torch.manual_seed(config.training.seed)
    if soft_tokens:
        adapters = Adapters(SoftToken(hidden_size, scale), SoftToken(hidden_size, scale), config.model.injection)  # type: ignore[arg-type]
    else:
        adapters = build_adapters(config.model, embedding_dim=users.shape[1], hidden_size=hidden_size)
        adapters.user.fit_input(users, scale)
        adapters.item.fit_input(items, scale)
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    return adapters


def _epoch(
    module: ExplanationLoss,
    parts: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    examples: Sequence[Example],
    config: TrainAdapterConfig,
    epoch: int,
    *,
    max_steps: int,
) -> tuple[float, int]:
    """Mean loss in nats a token, and the number of steps."""
    training = config.training
    module.train()
    total, num_tokens, steps = 0.0, 0, 0
    sizes = {"global_batch_size": training.global_batch_size, "micro_batch_size": training.micro_batch_size}
    for micro_batches in epoch_steps(examples, epoch=epoch, seed=training.seed, **sizes, rank=0, world_size=1):
        if steps == max_steps:
            break
        for micro_batch in micro_batches:
            nll = module(collate(micro_batch.examples))
            (nll / micro_batch.num_global_tokens).backward()
            total += nll.item()
        num_tokens += micro_batches[0].num_global_tokens
        if config.deepspeed.gradient_clipping:
            nn.utils.clip_grad_norm_(parts.parameters(), config.deepspeed.gradient_clipping)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        steps += 1
    return total / num_tokens, steps


@torch.no_grad()
def _validate(module: ExplanationLoss, examples: Sequence[Example], config: TrainAdapterConfig) -> float:
    module.eval()
    batches = validation_batches(examples, batch_size=config.training.micro_batch_size, rank=0, world_size=1)
    total = sum(module(collate(batch)).item() for batch in batches)
    return float(total / sum(len(example.label_ids) for example in examples))

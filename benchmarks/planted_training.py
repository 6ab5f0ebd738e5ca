"""Trains a variant in this process, by a plain AdamW loop without Ray and DeepSpeed.

Module, batches, schedule and clipping are those of the adapter's recipe, so the loop computes what
`xrec train-adapter` computes on one worker; tests/benchmarks/test_planted.py compares the two.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.planted_data import Town
from xrec.adapter.model import (
    Adapters,
    attach_adapters,
    build_adapters,
    embedding_scale,
    input_vectors,
)
from xrec.config.adapter import TrainAdapterConfig
from xrec.llm.examples import Example
from xrec.llm.model import load_model, resolve_attention, resolve_dtype
from xrec.llm.prefix import PrefixCache
from xrec.train.adapter_model import ExplanationLoss, learning_rate_share
from xrec.train.data import epoch_steps, validation_batches

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """The model with the adapters of the best epoch, and a row of losses for each epoch."""

    model: PreTrainedModel
    history: list[dict[str, Any]]


def load_frozen(town: Town, config: TrainAdapterConfig) -> PreTrainedModel:
    """Return the language model as the job loads it."""
    return load_model(
        town.llm,
        dtype=resolve_dtype(config.llm.dtype, _CPU),
        device=_CPU,
        attn_implementation=resolve_attention(config.llm.attn_implementation, _CPU),
    )


def train(
    town: Town,
    config: TrainAdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
) -> Trained:
    """Train as `config` says, and keep the epoch of the best validation loss."""
    model = load_frozen(town, config)
    adapters = _attach(model, town, config)
    parts = nn.ModuleList([adapters.user, adapters.item])
    budget_bytes = int(config.training.prefix_cache_gib * 2**30)
    prefixes = PrefixCache(model, [*examples, *validation], budget_bytes=budget_bytes)
    module = ExplanationLoss(model, prefixes)
    torch.manual_seed(config.training.seed + 1)
    history: list[dict[str, Any]] = []
    best = copy.deepcopy(parts.state_dict())
    for epoch, train_loss in enumerate(_epochs(module, parts, config, examples), start=1):
        loss = _validate(module, validation, _micro_batch_size(config))
        history.append({"epoch": epoch, "train_loss": train_loss, "validation_loss": loss})
        losses = [row["validation_loss"] for row in history]
        if min(losses) == losses[-1]:
            best = copy.deepcopy(parts.state_dict())
        if epoch - 1 - losses.index(min(losses)) >= config.training.patience:
            break
    parts.load_state_dict(best)
    module.eval()
    return Trained(model, history)


def _epochs(
    module: ExplanationLoss,
    parts: nn.ModuleList,
    config: TrainAdapterConfig,
    examples: Sequence[Example],
) -> Iterator[float]:
    """Train epoch by epoch, or the steps that are left; yield the mean loss in nats a token."""
    training, rate = config.training, config.training.learning_rate
    num_left = len(examples) // training.global_batch_size * training.num_epochs
    num_left = min(training.max_steps or num_left, num_left)
    optimizer = torch.optim.AdamW(
        parts.parameters(), lr=rate.peak, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_share(rate, num_left))
    for epoch in range(1, training.num_epochs + 1):
        module.train()
        total, num_tokens = 0.0, 0
        steps = epoch_steps(
            examples,
            epoch=epoch,
            seed=training.seed,
            global_batch_size=training.global_batch_size,
            micro_batch_size=_micro_batch_size(config),
            rank=0,
            world_size=1,
        )
        for _, micro_batches in zip(range(num_left), steps, strict=False):
            for micro_batch in micro_batches:
                nll = module(micro_batch.examples)
                (nll / micro_batch.num_global_tokens).backward()
                total += nll.item()
            if config.deepspeed.gradient_clipping:
                nn.utils.clip_grad_norm_(parts.parameters(), config.deepspeed.gradient_clipping)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            num_left -= 1
            num_tokens += micro_batches[0].num_global_tokens
        yield total / num_tokens
        if not num_left:
            return


@torch.no_grad()
def _validate(module: ExplanationLoss, examples: Sequence[Example], batch_size: int) -> float:
    """Return the mean NLL in nats a token."""
    module.eval()
    batches = validation_batches(examples, batch_size=batch_size, rank=0, world_size=1)
    total = sum(module(batch).item() for batch in batches)
    return float(total / sum(len(example.label_ids) for example in examples))


def _micro_batch_size(config: TrainAdapterConfig) -> int:
    assert config.training.micro_batch_size != "auto"
    return config.training.micro_batch_size


def _attach(model: PreTrainedModel, town: Town, config: TrainAdapterConfig) -> Adapters:
    scale, hidden_size = embedding_scale(model), int(model.config.hidden_size)
    users, items = input_vectors(config.model, town.graph.users, town.graph.items)
    torch.manual_seed(config.training.seed)
    adapters = build_adapters(config.model, embedding_dim=users.shape[1], hidden_size=hidden_size)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    return adapters

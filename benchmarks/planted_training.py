"""Trains a variant in this process, by a plain AdamW loop without Ray and DeepSpeed.

Module, batches, schedule and clipping are those of the adapter's recipe, so the loop computes what
`xrec train-adapter` computes on one worker; tests/benchmarks/test_planted.py compares the two.
"""

import copy
from collections.abc import Sequence
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
from xrec.train.data import MicroBatch, epoch_steps, validation_batches

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
    training = config.training
    model = load_frozen(town, config)
    adapters = _attach(model, town, config)
    prefixes = PrefixCache(
        model, [*examples, *validation], budget_bytes=int(training.prefix_cache_gib * 2**30)
    )
    loop = _Loop(
        ExplanationLoss(model, prefixes),
        nn.ModuleList([adapters.user, adapters.item]),
        config,
        len(examples),
    )
    torch.manual_seed(training.seed + 1)
    history: list[dict[str, Any]] = []
    best = copy.deepcopy(loop.parts.state_dict())
    for epoch in range(1, training.num_epochs + 1):
        history.append(
            {
                "epoch": epoch,
                "train_loss": loop.epoch(examples, epoch),
                "validation_loss": loop.validate(validation),
            }
        )
        losses = [row["validation_loss"] for row in history]
        if min(losses) == losses[-1]:
            best = copy.deepcopy(loop.parts.state_dict())
        if (
            epoch - 1 - losses.index(min(losses)) >= training.patience
            or loop.num_done >= loop.num_steps
        ):
            break
    loop.parts.load_state_dict(best)
    loop.module.eval()
    return Trained(model, history)


class _Loop:
    """Optimizer, schedule and steps; `parts` are trained."""

    def __init__(
        self,
        module: ExplanationLoss,
        parts: nn.ModuleList,
        config: TrainAdapterConfig,
        num_examples: int,
    ):
        self.module = module
        self.parts = parts
        self._training = config.training
        assert config.training.micro_batch_size != "auto"
        self._micro_batch_size: int = config.training.micro_batch_size
        self._clipping = config.deepspeed.gradient_clipping
        steps = num_examples // self._training.global_batch_size * self._training.num_epochs
        self.num_steps = min(self._training.max_steps or steps, steps)
        self.num_done = 0
        rate = self._training.learning_rate
        self._optimizer = torch.optim.AdamW(
            parts.parameters(), lr=rate.peak, weight_decay=self._training.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, learning_rate_share(rate, self.num_steps)
        )

    def epoch(self, examples: Sequence[Example], number: int) -> float:
        """Train an epoch, or the steps that are left; return the mean loss in nats a token."""
        self.module.train()
        total, num_tokens = 0.0, 0
        for micro_batches in epoch_steps(
            examples,
            epoch=number,
            seed=self._training.seed,
            global_batch_size=self._training.global_batch_size,
            micro_batch_size=self._micro_batch_size,
            rank=0,
            world_size=1,
        ):
            if self.num_done == self.num_steps:
                break
            total += self._step(micro_batches)
            num_tokens += micro_batches[0].num_global_tokens
        return total / num_tokens

    def _step(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Make a step on the mean over the global batch's tokens; return the sum of their NLL."""
        total = 0.0
        for micro_batch in micro_batches:
            nll = self.module(micro_batch.examples)
            (nll / micro_batch.num_global_tokens).backward()
            total += nll.item()
        if self._clipping:
            nn.utils.clip_grad_norm_(self.parts.parameters(), self._clipping)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.num_done += 1
        return total

    @torch.no_grad()
    def validate(self, examples: Sequence[Example]) -> float:
        """Return the mean NLL in nats a token."""
        self.module.eval()
        batches = validation_batches(
            examples, batch_size=self._micro_batch_size, rank=0, world_size=1
        )
        total = sum(self.module(batch).item() for batch in batches)
        return float(total / sum(len(example.label_ids) for example in examples))


def _attach(model: PreTrainedModel, town: Town, config: TrainAdapterConfig) -> Adapters:
    scale, hidden_size = embedding_scale(model), int(model.config.hidden_size)
    users, items = input_vectors(config.model, town.graph.users, town.graph.items)
    torch.manual_seed(config.training.seed)
    adapters = build_adapters(config.model, embedding_dim=users.shape[1], hidden_size=hidden_size)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    return adapters

"""Adapter training, one worker: a DeepSpeed engine over the frozen model with adapters, epochs of steps, validation, reports.

The loss is the mean NLL of the explanations' tokens and end tokens over the global batch, whatever the number of workers.
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import torch.distributed

from xrec.adapter.artifact import WEIGHTS
from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.adapter.vectors import input_vectors
from xrec.config import TrainAdapterConfig
from xrec.errors import TrainingError
from xrec.llm.examples import Example
from xrec.llm.model import load_model, resolve_attention, resolve_dtype
from xrec.llm.source import resolve_model
from xrec.train.adapter_batches import epoch_steps, validation_batches
from xrec.train.adapter_data import AdapterData, load_adapter_data
from xrec.train.adapter_module import (
    ExplanationLoss,
    deepspeed_config,
    gathered_embedding_scale,
    gathered_state,
    learning_rate_share,
    sharded_loading,
)
from xrec.train.prefix_cache import PrefixCache, WorkCounts
from xrec.train.worker_loop import any_worker, initialize_engine, note_step, rank, report, worker_device, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def train_loop(loop_config: dict[str, Any]) -> None:
    """One worker's training, from its argument only: {"config": TrainAdapterConfig with URIs that a worker can open}."""
    config: TrainAdapterConfig = loop_config["config"]
    torch.manual_seed(config.training.seed)
    data = load_adapter_data(config)
    steps_per_epoch = len(data.train) // config.training.global_batch_size
    num_steps = min(config.training.max_steps or math.inf, steps_per_epoch * config.training.num_epochs)
    engine, adapters = build_engine(config, data, num_steps=int(num_steps))
    best, evaluations_without_gain, step = math.inf, 0, 0
    for epoch in range(1, config.training.num_epochs + 1):
        started = time.monotonic()
        engine.module.prefixes.counts = WorkCounts()
        train_loss, steps = _train_epoch(engine, data.train, config, epoch, max_steps=int(num_steps) - step)
        step += steps
        validation_loss = _validate(engine, data.validation, config.training.micro_batch_size)
        metrics = {
            "epoch": epoch,
            "step": step,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "seconds": time.monotonic() - started,
            **_work(engine.module.prefixes),
            "num_train_pairs": len(data.train),
            "num_left_out": dict(data.left_out),
            "hidden_size": engine.module.model.config.hidden_size,
        }
        report(metrics, {WEIGHTS: safetensors.torch.save(gathered_state(adapters))})
        evaluations_without_gain = 0 if validation_loss < best else evaluations_without_gain + 1
        best = min(best, validation_loss)
        if evaluations_without_gain >= config.training.patience or step >= num_steps:
            break


def build_engine(config: TrainAdapterConfig, data: AdapterData, *, num_steps: int) -> tuple["DeepSpeedEngine", Adapters]:
    """The DeepSpeed engine of a worker over the frozen model with fresh adapters, the same on every worker."""
    dtype, graph = resolve_dtype(config.llm.dtype, worker_device()), data.graph
    settings = deepspeed_config(config, dtype=dtype)
    sharding = sharded_loading(config, settings)
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    attention = resolve_attention(config.llm.attn_implementation, worker_device())
    model = load_model(folder, dtype=dtype, device=None, attn_implementation=attention)
    scale = gathered_embedding_scale(model)
    del sharding  # the adapters are small, and made whole
    torch.manual_seed(config.training.seed)
    adapters = build_adapters(config.model, embedding_dim=graph.users.shape[1], hidden_size=model.config.hidden_size)
    users, items = input_vectors(config.model, graph.users, graph.items)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    budget_bytes = int(config.training.prefix_cache_gib * 2**30)
    module = ExplanationLoss(model, PrefixCache(model, [*data.train, *data.validation], budget_bytes=budget_bytes, agree=any_worker))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.training.learning_rate.peak, weight_decay=config.training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_share(config.training.learning_rate, num_steps))
    engine = initialize_engine(module, optimizer, settings, schedule)
    torch.manual_seed(config.training.seed + 1 + rank())  # gating noise differs between the workers
    return engine, adapters


def _train_epoch(
    engine: "DeepSpeedEngine", examples: Sequence[Example], config: TrainAdapterConfig, epoch: int, *, max_steps: int
) -> tuple[float, int]:
    """Train for one epoch or `max_steps`; returns the mean loss in nats a token, and the number of steps."""
    training = config.training
    engine.train()
    totals = torch.zeros(2, dtype=torch.float64)
    steps = 0
    for micro_batches in epoch_steps(
        examples,
        epoch=epoch,
        seed=training.seed,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        rank=rank(),
        world_size=world_size(),
        length=engine.module.prefixes.num_rest_tokens,
    ):
        if steps == max_steps:
            break
        for micro_batch in micro_batches:
            total_nll = engine(micro_batch.examples)
            # DeepSpeed averages over workers and accumulation steps; the loss is a mean over the global batch's tokens.
            engine.backward(total_nll * (world_size() * len(micro_batches) / micro_batch.num_global_tokens))
            engine.step()
            totals += torch.tensor([total_nll.item(), sum(len(example.label_ids) for example in micro_batch.examples)])
        steps += 1
        note_step(epoch, steps, min(max_steps, len(examples) // training.global_batch_size), float(totals[0] / totals[1]))
    return _global_mean(totals), steps


@torch.no_grad()
def _validate(engine: "DeepSpeedEngine", examples: Sequence[Example], batch_size: int) -> float:
    """Mean NLL in nats a token over all validation examples, the same on every worker."""
    engine.eval()
    totals = torch.zeros(2, dtype=torch.float64)
    length = engine.module.prefixes.num_rest_tokens
    for batch in validation_batches(examples, batch_size=batch_size, rank=rank(), world_size=world_size(), length=length):
        nll = engine(batch or examples[:1]).item()
        if batch:
            totals += torch.tensor([nll, sum(len(example.label_ids) for example in batch)])
    return _global_mean(totals)


def _work(prefixes: PrefixCache) -> dict[str, float]:
    """What an epoch's passes consisted of, training and validation of all workers together; every worker must call it."""
    counts = prefixes.counts
    numbers = torch.tensor([counts.padding, counts.positions, counts.kept_rows, counts.rows, prefixes.num_bytes], dtype=torch.float64)
    padding, positions, kept_rows, rows, num_bytes = _global_sum(numbers).tolist()
    return {"padding_share": padding / positions, "prefix_hit_share": kept_rows / rows, "prefix_cache_gib": num_bytes / 2**30}


def _global_mean(totals: torch.Tensor) -> float:
    """[sum, count] of this worker to the mean over all workers; raises TrainingError if it is not a number."""
    totals = _global_sum(totals)
    mean = (totals[0] / totals[1]).item()
    if not math.isfinite(mean):
        raise TrainingError(f"the loss is {mean}; lower training.learning_rate.peak, or check the graph's vectors")
    return mean


def _global_sum(numbers: torch.Tensor) -> torch.Tensor:
    numbers = numbers.to(worker_device())
    if world_size() > 1:
        torch.distributed.all_reduce(numbers)
    return numbers

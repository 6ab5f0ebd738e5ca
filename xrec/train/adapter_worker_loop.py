"""Adapter training, one worker: a DeepSpeed engine over the frozen model with adapters, epochs of steps, validation.

The loss is the mean NLL of the explanations' tokens and end tokens over the global batch, whatever the number of workers.
"""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.adapter.vectors import input_vectors
from xrec.config.adapter import TrainAdapterConfig
from xrec.llm.examples import Example
from xrec.llm.model import load_model, resolve_attention, resolve_dtype
from xrec.llm.source import resolve_model
from xrec.train.adapter_batches import epoch_steps, validation_batches
from xrec.train.adapter_data import AdapterData, load_adapter_data
from xrec.train.adapter_module import (
    ExplanationLoss,
    checkpoint_layers,
    deepspeed_config,
    gathered_embedding_scale,
    learning_rate_share,
    sharded_loading,
)
from xrec.train.adapter_run_loop import AdapterRun, sum_over_workers
from xrec.train.prefix_cache import PrefixCache, WorkCounts
from xrec.train.worker_loop import (
    any_worker,
    init_deepspeed,
    initialize_engine,
    note_step,
    rank,
    worker_device,
    world_size,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def train_loop(loop_config: dict[str, Any]) -> None:
    """One worker's training, from its argument only: {"config": TrainAdapterConfig with URIs that a worker can open, "run": its fingerprint}."""
    config: TrainAdapterConfig = loop_config["config"]
    data = load_adapter_data(config)
    steps_per_epoch = len(data.train) // config.training.global_batch_size
    all_steps = steps_per_epoch * config.training.num_epochs
    num_steps = min(config.training.max_steps or all_steps, all_steps)
    engine, adapters = build_engine(config, data, num_steps=num_steps)
    run = AdapterRun(
        engine,
        adapters,
        config.training,
        loop_config["run"],
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
    )
    run.take_up_checkpoint(data.train[:1])
    facts = {
        "num_train_pairs": len(data.train),
        "num_left_out": dict(data.left_out),
        "hidden_size": engine.module.model.config.hidden_size,
    }
    while not run.has_finished:
        engine.module.prefixes.counts = WorkCounts()
        _train_epoch(engine, data.train, config, run)
        validation_loss = _validate(
            engine, data.validation, config.training.micro_batch_size, run.progress.epoch
        )
        run.end_epoch(validation_loss, {**_work(engine), **facts})


def build_engine(
    config: TrainAdapterConfig, data: AdapterData, *, num_steps: int
) -> tuple["DeepSpeedEngine", Adapters]:
    """The DeepSpeed engine of a worker over the frozen model with fresh adapters, the same on every worker."""
    init_deepspeed()
    model = load_frozen_model(config)  # only here sharded: the adapters are small, and made whole
    scale, graph = gathered_embedding_scale(model), data.graph
    torch.manual_seed(config.training.seed)
    adapters = build_adapters(
        config.model, embedding_dim=graph.users.shape[1], hidden_size=model.config.hidden_size
    )
    users, items = input_vectors(config.model, graph.users, graph.items)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    if config.training.gradient_checkpointing:
        checkpoint_layers(model)
    module = ExplanationLoss(model, _prefix_cache(config, model, data))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=config.training.learning_rate.peak, weight_decay=config.training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, learning_rate_share(config.training.learning_rate, num_steps)
    )
    settings = _settings(config)
    # By default DeepSpeed's buffer for gradients has 500 million elements; the adapters have few.
    zero = {
        **settings["zero_optimization"],
        "reduce_bucket_size": sum(parameter.numel() for parameter in trainable),
    }
    return initialize_engine(
        module, optimizer, {**settings, "zero_optimization": zero}, schedule
    ), adapters


def _prefix_cache(
    config: TrainAdapterConfig, model: PreTrainedModel, data: AdapterData
) -> PrefixCache:
    training = config.training
    return PrefixCache(
        model,
        [*data.train, *data.validation],
        budget_bytes=int(training.prefix_cache_gib * 2**30),
        agree=any_worker,
        split=not training.gradient_checkpointing,  # a layer that is computed again takes no keys and values of before
    )


def load_frozen_model(config: TrainAdapterConfig) -> PreTrainedModel:
    """The language model; at stage 3 with this worker's shard of each weight only. `init_deepspeed` comes first."""
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    sharding = sharded_loading(config, _settings(config))
    attention = resolve_attention(config.llm.attn_implementation, worker_device())
    model = load_model(folder, dtype=_dtype(config), device=None, attn_implementation=attention)
    del sharding
    return model


def _dtype(config: TrainAdapterConfig) -> torch.dtype:
    return resolve_dtype(config.llm.dtype, worker_device())


def _settings(config: TrainAdapterConfig) -> dict[str, Any]:
    return deepspeed_config(config, dtype=_dtype(config), world_size=world_size())


def _train_epoch(
    engine: "DeepSpeedEngine",
    examples: Sequence[Example],
    config: TrainAdapterConfig,
    run: AdapterRun,
) -> None:
    """Train to the end of the present epoch, or of all steps."""
    training = config.training
    engine.train()
    steps = epoch_steps(
        examples,
        epoch=run.progress.epoch,
        seed=training.seed,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        rank=rank(),
        world_size=world_size(),
        length=engine.module.prefixes.num_rest_tokens,
    )
    for micro_batches in islice(steps, run.progress.step_in_epoch, None):
        if run.epoch_has_ended:
            break
        totals = torch.zeros(2, dtype=torch.float64, device=engine.device)
        for position, micro_batch in enumerate(micro_batches):
            run.seed_noise(position)
            total_nll = engine(micro_batch.examples or examples[:1])
            # DeepSpeed averages over workers and accumulation steps; the loss is a mean over the global batch's tokens.
            share = world_size() * len(micro_batches) / micro_batch.num_global_tokens
            engine.backward(total_nll * (share if micro_batch.examples else 0.0))
            engine.step()
            if micro_batch.examples:
                totals += torch.tensor(
                    [
                        total_nll.item(),
                        sum(len(example.label_ids) for example in micro_batch.examples),
                    ]
                )
        loss = run.end_step(totals)
        note_step(
            run.progress.epoch,
            run.progress.step_in_epoch,
            len(examples) // training.global_batch_size,
            loss,
        )


@torch.no_grad()
def _validate(
    engine: "DeepSpeedEngine", examples: Sequence[Example], batch_size: int, epoch: int
) -> float:
    """Mean NLL in nats a token over all validation examples, the same on every worker."""
    engine.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=engine.device)
    length = engine.module.prefixes.num_rest_tokens
    for batch in validation_batches(
        examples, batch_size=batch_size, rank=rank(), world_size=world_size(), length=length
    ):
        nll = engine(batch or examples[:1]).item()
        if batch:
            totals += torch.tensor([nll, sum(len(example.label_ids) for example in batch)])
    nll, num_tokens = sum_over_workers(totals, f"validation after epoch {epoch}")
    return nll / num_tokens


def _work(engine: "DeepSpeedEngine") -> dict[str, float]:
    """What an epoch's passes consisted of, training and validation of all workers together; every worker must call it."""
    prefixes: PrefixCache = engine.module.prefixes
    counts = prefixes.counts
    numbers = torch.tensor(
        [counts.padding, counts.positions, counts.kept_rows, counts.rows, prefixes.num_bytes],
        dtype=torch.float64,
        device=engine.device,
    )
    if world_size() > 1:
        dist.all_reduce(numbers)
    padding, positions, kept_rows, rows, num_bytes = numbers.tolist()
    return {
        "padding_share": padding / positions,
        "prefix_hit_share": kept_rows / rows,
        "prefix_cache_gib": num_bytes / 2**30,
    }

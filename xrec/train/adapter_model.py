"""What a worker trains: the frozen language model with adapters, in a DeepSpeed engine."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from xrec.adapter.model import (
    Adapters,
    attach_adapters,
    build_adapters,
    embedding_scale,
    input_vectors,
)
from xrec.config import TrainAdapterConfig
from xrec.errors import ModelError
from xrec.llm.loss import Example, ExplanationLoss, PrefixCache
from xrec.train.data import AdapterData
from xrec.train.deepspeed_engine import (
    deepspeed_settings,
    gathered,
    init_deepspeed,
    initialize_engine,
    load_frozen_model,
    move_to_device,
    training_dtype,
)
from xrec.train.ray_worker import any_worker, worker_device, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_WARMUP_SHARE = 0.05  # of all steps; 0.1 was as good on reviews


def build_model(config: TrainAdapterConfig, data: AdapterData) -> tuple[PreTrainedModel, Adapters]:
    """Return the frozen model on this worker's device, and the new adapters attached to it.

    The adapters are the same on every worker, in the model's dtype.
    """
    init_deepspeed()
    model = load_frozen_model(config)
    # At stage 3 only the loaded weights are sharded; the adapters are small and start whole.
    with gathered(model.get_input_embeddings().parameters()):
        scale = embedding_scale(model)
    graph, training = data.graph, config.training
    torch.manual_seed(training.seed)
    adapters = build_adapters(
        config.model, embedding_dim=graph.users.shape[1], hidden_size=model.config.hidden_size
    )
    users, items = input_vectors(config.model, graph.users, graph.items)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    if data.training_vectors is not None:
        users = torch.cat([users, data.training_vectors.users])
        items = torch.cat([items, data.training_vectors.items])
    attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    # DeepSpeed converts parameters too, except at stage 3, where the frozen weights are already
    # sharded: it would train float32 adapters in a float16 model, without a loss scale.
    for parameter in (*adapters.user.parameters(), *adapters.item.parameters()):
        parameter.data = parameter.data.to(training_dtype(config))
    move_to_device(model, worker_device())
    if training.gradient_checkpointing:
        checkpoint_layers(model)
    return model, adapters


def try_step(config: TrainAdapterConfig, model: PreTrainedModel, rows: Sequence[Example]) -> None:
    """Run a forward and backward pass over `rows` as training does, and discard the gradients."""
    device = worker_device()
    module = _loss(config, model, [], num_positions=max(map(len, rows)), budget_bytes=0).train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            module(rows).backward()
    finally:
        module.zero_grad(set_to_none=True)


def build_engine(
    model: PreTrainedModel, config: TrainAdapterConfig, data: AdapterData, *, num_steps: int
) -> "DeepSpeedEngine":
    """Return this worker's DeepSpeed engine over the model from `build_model`."""
    training = config.training
    module = _loss(
        config,
        model,
        data.shared_ids,
        num_positions=sum(data.longest()[:2]),  # each part of a batch is padded to its longest row
        budget_bytes=int(training.prefix_cache_gib * 2**30),
    )
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True if worker_device().type == "cuda" else None,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, learning_rate_share(_WARMUP_SHARE, num_steps)
    )
    settings = deepspeed_settings(config, dtype=training_dtype(config), world_size=world_size())
    # DeepSpeed's default gradient buffer has 500 million elements, far more than the adapters.
    settings["zero_optimization"]["reduce_bucket_size"] = sum(
        parameter.numel() for parameter in trainable
    )
    return initialize_engine(module, optimizer, settings, schedule)


def _loss(
    config: TrainAdapterConfig,
    model: PreTrainedModel,
    shared_ids: Sequence[int],
    *,
    num_positions: int,
    budget_bytes: int,
) -> ExplanationLoss:
    prefixes = PrefixCache(
        model,
        shared_ids,
        num_positions=num_positions,
        budget_bytes=budget_bytes,
        # Stage 3 gathers weights during a pass, so all workers must make the same passes.
        agree=any_worker if config.zero_stage == 3 else bool,
        # A checkpointed layer is recomputed without the keys and values of earlier positions.
        split=not config.training.gradient_checkpointing,
    )
    return ExplanationLoss(model, prefixes, config.training.average_over)


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make each layer keep only its input in training and recompute the rest for the gradients.

    Raises ModelError if the model's layers cannot do this.
    """
    try:
        # Reentrant checkpointing loses the gradient of the injected vectors.
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(
            f"{error} set training.gradient_checkpointing=false",
            code="no_gradient_checkpointing",
            key="training.gradient_checkpointing",
            saw=True,
        ) from error
    model.disable_input_require_grads()  # the adapted vectors in the input have a gradient anyway


def learning_rate_share(warmup_share: float, num_steps: int) -> Callable[[int], float]:
    """Return a function from a step, 0 to num_steps - 1, to its share of the peak learning rate.

    The share rises linearly during the warm-up and then falls linearly. It is positive at every
    step; the schedules of DeepSpeed and transformers start at zero.
    """
    num_warmup_steps = max(1, round(warmup_share * num_steps))
    return lambda step: min(
        (step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1)
    )

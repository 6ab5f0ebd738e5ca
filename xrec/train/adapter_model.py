"""What a worker trains: the frozen language model with adapters, its loss, and passes over it.

The loss is the mean NLL of the explanations' tokens and end tokens over the global batch, the same
for any number of workers.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.model import (
    Adapters,
    attach_adapters,
    build_adapters,
    embedding_scale,
    input_vectors,
)
from xrec.config import TrainAdapterConfig
from xrec.errors import ModelError, TrainingError
from xrec.llm.loss import Example, ExplanationLoss, PrefixCache, key_value_bytes
from xrec.train.data import AdapterData, MicroBatch, noise_seed, validation_batches
from xrec.train.deepspeed_engine import (
    deepspeed_settings,
    gathered,
    init_deepspeed,
    initialize_engine,
    load_frozen_model,
    move_to_device,
    training_dtype,
)
from xrec.train.ray_worker import (
    any_worker,
    local_world_size,
    note,
    rank,
    worker_device,
    world_size,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_WARMUP_SHARE = 0.05  # of all steps; 0.1 was as good on reviews
TOKENS_PER_FAR_GATHER, TOKENS_PER_NEAR_GATHER = 10_000, 1_000
"""In the time of gathering all weights, between nodes and within one, so many tokens go forward.

2 bytes a parameter at 40 or 400 GB/s, against 2 operations a parameter and token at 4e14 a second.
"""


def build_model(config: TrainAdapterConfig, data: AdapterData) -> tuple[PreTrainedModel, Adapters]:
    """Return the frozen model on this worker's device with fresh adapters, which it has attached.

    The adapters are the same on every worker, in the model's dtype.
    """
    init_deepspeed()
    model = load_frozen_model(config)
    # At stage 3 only the loading shards weights: the adapters are small and are made whole.
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
    # DeepSpeed does this too, but not at stage 3, where the frozen weights are sharded by now: it
    # would train float32 adapters in a float16 model, without a loss scale.
    for parameter in (*adapters.user.parameters(), *adapters.item.parameters()):
        parameter.data = parameter.data.to(training_dtype(config))
    move_to_device(model, worker_device())
    if training.gradient_checkpointing:
        checkpoint_layers(model)
    return model, adapters


def try_step(config: TrainAdapterConfig, model: PreTrainedModel, rows: Sequence[Example]) -> None:
    """Go forward and backward with the rows as training does, and leave nothing behind."""
    device, split = worker_device(), not config.training.gradient_checkpointing
    longest = max(map(len, rows))
    cache = PrefixCache(model, [], num_positions=longest, budget_bytes=0, split=split)
    module = ExplanationLoss(model, cache).train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            module(rows).backward()
    finally:
        module.zero_grad(set_to_none=True)


def build_engine(
    model: PreTrainedModel, config: TrainAdapterConfig, data: AdapterData, *, num_steps: int
) -> "DeepSpeedEngine":
    """Return the DeepSpeed engine of a worker over the model of `build_model`."""
    training = config.training
    prefixes = _prefix_cache(config, model, data, num_steps)
    module = ExplanationLoss(model, prefixes)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, learning_rate_share(_WARMUP_SHARE, num_steps)
    )
    settings = deepspeed_settings(config, dtype=training_dtype(config), world_size=world_size())
    # By default DeepSpeed's buffer for gradients has 500 million elements; the adapters have few.
    settings["zero_optimization"]["reduce_bucket_size"] = sum(
        parameter.numel() for parameter in trainable
    )
    return initialize_engine(module, optimizer, settings, schedule)


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make each layer keep only its input in training and compute the rest again for the gradients.

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


def _prefix_cache(
    config: TrainAdapterConfig, model: PreTrainedModel, data: AdapterData, num_steps: int
) -> PrefixCache:
    training = config.training
    return PrefixCache(
        model,
        data.shared_ids,
        # Each part of a batch is padded to its longest row.
        num_positions=sum(data.longest()[:2]),
        budget_bytes=int(training.prefix_cache_gib * 2**30),
        # Only at stage 3 must all workers make the same forward passes, to gather weights in them.
        agree=any_worker if config.zero_stage == 3 else bool,
        # A layer that is computed again for its gradients does not take earlier keys and values.
        split=not training.gradient_checkpointing
        and splitting_pays(config, model, data, num_steps, worker_device()),
    )


def splitting_pays(
    config: TrainAdapterConfig,
    model: PreTrainedModel,
    data: AdapterData,
    num_steps: int,
    device: torch.device,
) -> bool:
    """Whether passes in two parts are sooner done; logged if they are not. The same on all workers.

    A split pass saves the backward pass over the beginnings, and where all of them are kept the
    forward pass too. At stage 3 those that are not kept cost another gather of the weights.
    """
    if config.zero_stage != 3 or device.type == "cpu":
        return True
    training, num_prefix_tokens = config.training, data.train.num_prefix_tokens
    assert training.micro_batch_size != "auto"
    num_pairs = len(num_prefix_tokens)
    num_own = int((num_prefix_tokens - len(data.shared_ids)).sum())
    has_room = num_own * key_value_bytes(model) <= training.prefix_cache_gib * 2**30 * world_size()
    num_seen = max(num_steps * training.global_batch_size, num_pairs)
    kept = 1 - num_pairs / num_seen if has_room else 0.0
    is_near = config.hpz_size > 1 or local_world_size() == world_size()
    gather = TOKENS_PER_NEAR_GATHER if is_near else TOKENS_PER_FAR_GATHER
    saved = training.micro_batch_size * float(num_prefix_tokens.mean()) * (1 + kept)
    lost = (1 - kept) * gather
    if saved <= lost:
        note(
            f"no keys and values of prompts are kept: this would save the time of {saved:.0f} "
            f"tokens a pass, and gather weights again for that of {lost:.0f}"
        )
    return saved > lost


def learning_rate_share(warmup_share: float, num_steps: int) -> Callable[[int], float]:
    """Return a function from a step, 0 to num_steps - 1, to its share of the peak rate.

    The share rises linearly in the warm-up and then falls linearly. It is above zero at each step,
    while DeepSpeed's WarmupDecayLR begins with two steps at zero.
    """
    num_warmup_steps = max(1, round(warmup_share * num_steps))
    return lambda step: min(
        (step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1)
    )


class AdapterPasses:
    """Passes of a DeepSpeed engine over an `ExplanationLoss`; `seed` is that of the training."""

    def __init__(self, engine: "DeepSpeedEngine", data: AdapterData, seed: int):
        self._engine, self._data, self._seed = engine, data, seed

    def applied_step(self, micro_batches: Sequence[MicroBatch], *, step: int, place: str) -> Tensor:
        """Make an optimizer step; return NLL (nats) and count of this worker's part, (2,) float64.

        step: the steps before this one, of which its random numbers follow. place: for messages.

        In float16 DeepSpeed skips a step whose gradient is not finite, and lowers the loss scale.
        The step is then made again, with the same examples and random numbers. Raises TrainingError
        on each worker if the NLL is not finite, or if a gradient is not and there is no scale.
        """
        totals = self._step(micro_batches, step)
        while not self._engine.was_step_applied():
            sum_over_workers(totals, place)
            if not self._engine.fp16_enabled():
                raise TrainingError(
                    f"{place}: a gradient is not finite; lower training.learning_rate, or "
                    "check the graph's vectors",
                    code="gradient_not_finite",
                    key="training.learning_rate",
                )
            note(f"{place}: a gradient overflowed; trying half the loss scale")
            totals = self._step(micro_batches, step)
        return totals

    def _step(self, micro_batches: Sequence[MicroBatch], step: int) -> Tensor:
        """Try an optimizer step; return the same as `applied_step`.

        An empty micro-batch stands in where the others have one more: some example goes through
        the model, with a gradient of zero.
        """
        totals = self._zeros()
        for position, micro_batch in enumerate(micro_batches):
            examples = [self._data.train[row] for row in micro_batch.rows]
            number = position * world_size() + rank()
            torch.manual_seed(noise_seed(self._seed, step, number))
            nll = self._engine(examples or [self._data.train[0]])
            # DeepSpeed averages over workers and accumulation steps, while the loss is a mean over
            # the global batch.
            share = world_size() * len(micro_batches) / micro_batch.num_global_tokens
            self._engine.backward(nll * (share if examples else 0.0))
            self._engine.step()
            totals += _nll_and_count(nll, examples)
        return totals

    @torch.no_grad()
    def validation_loss(self, batch_size: int, *, place: str) -> float:
        """Return the mean NLL of all validation examples, nats a token; the same on each worker."""
        self._engine.eval()
        totals = self._zeros()
        data = self._data.validation
        for rows in validation_batches(
            data.lengths(can_split=self._engine.module.prefixes.can_split),
            batch_size=batch_size,
            rank=rank(),
            world_size=world_size(),
        ):
            examples = [data[row] for row in rows]
            nll = self._engine(examples or [data[0]])
            totals += _nll_and_count(nll, examples)
        nll, count = sum_over_workers(totals, place)
        return nll / count

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self._engine.device)


def _nll_and_count(nll: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return a batch's NLL and tokens, (2,) float64 on its device; zeros without rows."""
    nll = nll.detach().double() if examples else nll.new_zeros((), dtype=torch.float64)
    return torch.stack([nll, nll.new_tensor(sum(len(each.label_ids) for each in examples))])


def sum_over_workers(totals: Tensor, place: str) -> list[float]:
    """Return the sums over all workers of `totals`: NLL, tokens and any others, float64.

    Raises TrainingError on each worker if the NLL is not finite; `place` says where in the run.
    """
    if world_size() > 1:
        dist.all_reduce(totals)
    nll, num_tokens, *others = totals.tolist()
    if not math.isfinite(nll):
        raise TrainingError(
            f"{place}: the loss is {nll / num_tokens}; lower training.learning_rate, or check "
            "the graph's vectors",
            code="loss_not_finite",
            key="training.learning_rate",
            saw=nll / num_tokens,
        )
    return [nll, num_tokens, *others]

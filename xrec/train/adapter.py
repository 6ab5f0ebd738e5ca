"""The adapter's recipe: dataset, graph and a frozen language model in, adapter artifact out.

    train_adapter    driver: checks that the inputs belong together, runs the workers by Ray Train,
                     writes the best epoch
    train_worker     one worker, from here on down: data, model, steps, validation, checkpoints

A run that was stopped in any way goes on from its last checkpoint when it is started again. The
loss is the mean NLL of the explanations' tokens and end tokens over the global batch, the same for
any number of workers. All counts are of the global batch, so all workers take the same decisions.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.card import TRAINED, model_card
from xrec.adapter.model import Adapters, attach_adapters, build_adapters, embedding_scale
from xrec.adapter.vectors import input_vectors
from xrec.aspects import aspects_of
from xrec.config.adapter import LearningRateConfig, TrainAdapterConfig
from xrec.errors import ConfigError, ModelError, TrainingError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.llm.examples import Example, collate, token_nll
from xrec.llm.model import check_quantization
from xrec.llm.source import model_fingerprint, public_name, resolve_model
from xrec.storage import Manifest, finished, location_of, manifest_of, run_fingerprint
from xrec.train.checkpoint import (
    AdapterProgress,
    Tensors,
    TrainedTensors,
    adapter_files,
    claim,
    progress_file,
    read_best_adapter,
    read_progress,
    read_trained,
)
from xrec.train.data import (
    AdapterData,
    MicroBatch,
    epoch_steps,
    load_adapter_data,
    noise_seed,
    validation_batches,
)
from xrec.train.deepspeed_engine import (
    WholeState,
    adapter_settings,
    gathered,
    gathered_state,
    init_deepspeed,
    initialize_engine,
    load_frozen_model,
    move_to_device,
    restore_states,
    training_dtype,
    whole_state,
)
from xrec.train.loss_scale import (
    LEAST_SCALE,
    LossScale,
    check_dtype,
    loss_scale,
    scaled,
    set_loss_scale,
)
from xrec.train.metrics import TrainingMetrics
from xrec.train.micro_batch import (
    chosen_size,
    with_estimated_size,
    with_size,
    with_tried_size,
)
from xrec.train.prefix_cache import PrefixCache, WorkCounts
from xrec.train.profiler import profiled_steps
from xrec.train.ray_driver import fit
from xrec.train.ray_worker import (
    PreemptionWatch,
    any_worker,
    last_checkpoint,
    note,
    note_step,
    rank,
    report,
    worker_device,
    world_size,
)
from xrec.train.sharding import with_sharding
from xrec.train.work import Speed, WorkMeter, describe_speed, peak_tflops

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

logger = logging.getLogger("xrec")

_CHECKPOINTS = "checkpoints"


# The driver


def train_adapter(config: TrainAdapterConfig) -> Manifest:
    """Train and write the adapter artifact, and return its manifest.

    If this run is already finished, its manifest is returned at once. Raises ArtifactMismatchError
    (the graph is of another dataset, or another run's output or checkpoints are there),
    ConfigError, DataError, ModelError, TrainingError.
    """
    _check_batch_sizes(config)
    check_quantization(config.llm.quantization)
    output = location_of(config, "adapter")
    dataset = manifest_of(config, "dataset")
    graph = manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    base_model = model_fingerprint(
        resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    )
    run_config = adapter_run_config(config)
    aspects = aspects_of(config.prompt, config.artifact("aspects"), dataset, config.storage)
    inputs = adapter_inputs(dataset, graph, base_model, aspects)
    done = finished(output, "adapter", run_config, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    claim(output / _CHECKPOINTS, "adapter", run_config, inputs)
    progress, best = _train(config, run_fingerprint("adapter", run_config, inputs))
    metrics = dict(progress.best)
    adapter_config = _adapter_config(config, graph, base_model, metrics["hidden_size"])
    manifest = write_adapter(
        output,
        best,
        adapter_config,
        run_config=run_config,
        inputs=inputs,
        metrics=metrics,
        extra_files={"history.json": json.dumps(progress.history, indent=2).encode()},
        card=model_card(
            adapter_config, settings=config.card, origin=TRAINED, dataset=dataset, metrics=metrics
        ),
    )
    (output / _CHECKPOINTS).delete()
    return manifest


def _adapter_config(
    config: TrainAdapterConfig, graph: Manifest, base_model: str, hidden_size: int
) -> AdapterConfig:
    return AdapterConfig(
        embedding_dim=graph.config["model"]["embedding_dim"],
        hidden_size=hidden_size,
        model=config.model,
        prompt=config.prompt,
        base_model=public_name(config.llm.model),
        base_model_fingerprint=base_model,
        graph_fingerprint=graph.fingerprint,
    )


def adapter_run_config(config: TrainAdapterConfig) -> dict[str, Any]:
    """Return the settings that the adapter's content depends on.

    The number of workers, the ZeRO stage and the time of checkpoints are not among them.
    """
    values = config.model_dump(mode="json", include={"model", "prompt"})
    training = config.training.model_dump(
        mode="json",
        exclude={
            "steps_per_checkpoint",
            "gradient_checkpointing",
            "prefix_cache_gib",
            "peak_tflops",
            "profile_steps",
        },
    )
    if training["max_pairs"] is None:
        del training["max_pairs"]  # adapters of before have no such key
    clipping = {"gradient_clipping": config.deepspeed.gradient_clipping}
    weights: dict[str, str] = {"dtype": config.llm.dtype}
    if config.llm.quantization is not None:
        weights["quantization"] = config.llm.quantization
    return {**values, "training": training, "deepspeed": clipping, **weights}


def adapter_inputs(
    dataset: Manifest, graph: Manifest, base_model: str, aspects: Manifest | None
) -> dict[str, str]:
    """Return the fingerprints of what an adapter is made from."""
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint, "base_model": base_model}
    return inputs if aspects is None else {**inputs, "aspects": aspects.fingerprint}


def _check_batch_sizes(config: TrainAdapterConfig) -> None:
    training, num_workers = config.training, config.scaling.num_workers
    if training.micro_batch_size == "auto":
        if training.global_batch_size % num_workers:
            raise ConfigError(
                f"training.global_batch_size = {training.global_batch_size} is no multiple of "
                f"scaling.num_workers = {num_workers}; change one of them"
            )
        return
    if training.global_batch_size % (training.micro_batch_size * num_workers):
        raise ConfigError(
            f"training.global_batch_size = {training.global_batch_size} is no multiple of "
            "training.micro_batch_size * scaling.num_workers = "
            f"{training.micro_batch_size} * {num_workers}; change one of them"
        )
    num_micro_batches = training.global_batch_size // training.micro_batch_size
    fewer = range(config.scaling.fewest_workers, num_workers)
    uneven = [number for number in fewer if num_micro_batches % number]
    if uneven:
        logger.warning(
            "a step has %d micro-batches: with %s workers some passes will be empty; the global "
            "batch stays the same",
            num_micro_batches,
            uneven,
        )


def _train(config: TrainAdapterConfig, run: str) -> tuple[AdapterProgress, Tensors]:
    """Run the workers; return how the run went, and the adapter of its best epoch."""
    exported = TrainingMetrics("train-adapter")

    def on_report(row: dict[str, Any]) -> None:
        exported.record(row)
        logger.info(
            "epoch %d, step %d: training loss %.3f, validation loss %.3f nats a token (%.0f s%s)",
            *(row[key] for key in ("epoch", "step", "train_loss", "validation_loss", "seconds")),
            describe_speed(row),
        )

    with exported.running():
        outcome = fit(
            train_worker,
            {"config": _for_workers(config), "run": run},
            scaling=config.scaling,
            storage=location_of(config, "adapter") / _CHECKPOINTS,
            name="train-adapter",
            on_report=on_report,
        )
    read = outcome.read_checkpoint_file
    return read_progress(AdapterProgress, read, run), read_best_adapter(read)


def _for_workers(config: TrainAdapterConfig) -> TrainAdapterConfig:
    """Return the config with URIs and paths that a worker can open."""
    locations = {name: location_of(config, name) for name in ("dataset", "graph", "adapter")}
    folder = Path(config.llm.model).expanduser()
    model = str(folder.resolve()) if folder.exists() else config.llm.model
    return config.model_copy(
        update={
            **{name: location.shared_uri for name, location in locations.items()},
            "llm": config.llm.model_copy(update={"model": model}),
        }
    )


# One worker


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "config", a TrainAdapterConfig with URIs that a worker can open, and "run",
    the fingerprint of the run.
    """
    config: TrainAdapterConfig = loop_config["config"]
    check_dtype(training_dtype(config))
    data = load_adapter_data(config)
    num_profiled = config.training.profile_steps if rank() == 0 else 0
    adapter = location_of(config, "adapter")
    worker = AdapterWorker(with_sharding(config, data), data, loop_config["run"])
    with profiled_steps(num_profiled, adapter) as worker.after_step:
        while not worker.has_finished:
            worker.run_epoch()


# Model: the frozen language model with adapters, and the loss of a batch


class ExplanationLoss(nn.Module):
    """The sum of the NLL of the examples' labels, in nats.

    The labels are the explanations' tokens and their end tokens. The forward pass is split at each
    prompt's first collaborative token: what comes before has no gradient and is taken from
    `prefixes`.
    """

    def __init__(self, model: PreTrainedModel, prefixes: PrefixCache):
        super().__init__()
        self.model = model
        self.prefixes = prefixes

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """Return the sum, a scalar."""
        past, rest = self.prefixes.split(self.model, examples)
        return token_nll(self.model, collate(rest).to(self.model.device), past).sum()

    def train(self, mode: bool = True) -> "ExplanationLoss":
        """Set the adapters' mode; the frozen model stays in eval mode, without dropout."""
        super().train(mode)
        self.model.eval()
        embedding = self.model.get_input_embeddings()
        embedding.user_adapter.train(mode)
        embedding.item_adapter.train(mode)
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                # transformers checkpoints a layer only in training mode. Its parts stay in eval.
                layer.training = mode
        return self


def build_engine(
    config: TrainAdapterConfig, data: AdapterData, *, num_steps: int
) -> tuple["DeepSpeedEngine", Adapters]:
    """Return the DeepSpeed engine of a worker over the frozen model with fresh adapters."""
    model, adapters = build_model(config, data)
    return engine_over(model, config, data, num_steps=num_steps), adapters


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
    training, device = config.training, worker_device()
    cache = PrefixCache(model, rows, budget_bytes=0, split=not training.gradient_checkpointing)
    module = ExplanationLoss(model, cache).train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            module(rows).backward()
    finally:
        module.zero_grad(set_to_none=True)


def engine_over(
    model: PreTrainedModel, config: TrainAdapterConfig, data: AdapterData, *, num_steps: int
) -> "DeepSpeedEngine":
    """Return the DeepSpeed engine of a worker over what `build_model` returned."""
    training = config.training
    module = ExplanationLoss(model, _prefix_cache(config, model, data))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=training.learning_rate.peak, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, learning_rate_share(training.learning_rate, num_steps)
    )
    settings = adapter_settings(config)
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
        raise ModelError(f"{error} set training.gradient_checkpointing=false") from error
    model.disable_input_require_grads()  # the adapted vectors in the input have a gradient anyway


def _prefix_cache(
    config: TrainAdapterConfig, model: PreTrainedModel, data: AdapterData
) -> PrefixCache:
    training = config.training
    return PrefixCache(
        model,
        [*data.train, *data.validation],
        budget_bytes=int(training.prefix_cache_gib * 2**30),
        # Only at stage 3 must all workers make the same forward passes, to gather weights in them.
        agree=any_worker if config.deepspeed.zero_stage == 3 else bool,
        # A layer that is computed again for its gradients does not take earlier keys and values.
        split=not training.gradient_checkpointing,
    )


def learning_rate_share(rate: LearningRateConfig, num_steps: int) -> Callable[[int], float]:
    """Return a function from a step, 0 to num_steps - 1, to its share of the peak rate.

    The share rises linearly in the warm-up and then falls linearly. It is above zero at each step,
    while DeepSpeed's WarmupDecayLR begins with two steps at zero.
    """
    num_warmup_steps = max(1, round(rate.warmup_share * num_steps))
    return lambda step: min(
        (step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1)
    )


@dataclass(frozen=True)
class _Checkpoint:
    """What a worker reads of the last checkpoint."""

    progress: AdapterProgress
    trained: TrainedTensors
    best: Tensors


def _last_checkpoint(run: str) -> _Checkpoint | None:
    """Return the last checkpoint, or None; raises ArtifactMismatchError if it is another run's."""
    with last_checkpoint() as read:
        if read is None:
            return None
        progress = read_progress(AdapterProgress, read, run)
        return _Checkpoint(progress, read_trained(read), read_best_adapter(read))


def _sized_model(
    config: TrainAdapterConfig, data: AdapterData, checkpoint: _Checkpoint | None
) -> tuple[TrainAdapterConfig, PreTrainedModel, Adapters]:
    """Return `config` with a number as its micro-batch size, and `build_model` of it. Collective.

    A size that is auto is the checkpoint's, and without a checkpoint it is chosen.
    """
    is_auto = config.training.micro_batch_size == "auto"
    if is_auto and checkpoint is not None and checkpoint.progress.micro_batch_size is not None:
        config = with_size(config, checkpoint.progress.micro_batch_size)
    config = with_estimated_size(config, data)
    model, adapters = build_model(config, data)
    num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
    return (
        with_tried_size(config, data, num_text_tokens, partial(try_step, config, model)),
        model,
        adapters,
    )


class AdapterWorker:
    """A worker between two steps: its engine, how far the run is, the best adapter so far."""

    def __init__(self, config: TrainAdapterConfig, data: AdapterData, run: str):
        """Build the engine for run `run`, a fingerprint, and go on from its last checkpoint.

        Raises ArtifactMismatchError if the checkpoint is another run's.
        """
        checkpoint = _last_checkpoint(run)
        config, model, self._adapters = _sized_model(config, data, checkpoint)
        self._training, self._data = config.training, data
        self._micro_batch_size = chosen_size(config)
        self._steps_per_epoch = len(data.train) // config.training.global_batch_size
        all_steps = self._steps_per_epoch * config.training.num_epochs
        self._num_steps = min(config.training.max_steps or all_steps, all_steps)
        self._engine = engine_over(model, config, data, num_steps=self._num_steps)
        self._prefixes: PrefixCache = self._engine.module.prefixes
        self._meter = WorkMeter(self._engine.module.model)
        self._speed: dict[str, float] = {}
        self.after_step: Callable[[], None] = lambda: None
        """Called after each step."""
        self._trained = {
            name: parameter
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad
        }
        self.progress = AdapterProgress(run, micro_batch_size=self._micro_batch_size)
        self._best: Tensors = {}
        self._preemption = PreemptionWatch()
        self._step_ended = time.monotonic()
        if checkpoint is not None:
            self._resume(checkpoint)

    @property
    def has_finished(self) -> bool:
        """Whether all steps are done, or too many validations brought no gain."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.evaluations_without_gain >= self._training.patience
        )

    @property
    def epoch_has_ended(self) -> bool:
        """Whether no step of the present epoch is left."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.step_in_epoch >= self._steps_per_epoch
        )

    def run_epoch(self) -> None:
        """Train to the end of the present epoch, validate, and report with a checkpoint."""
        self._prefixes.counts = WorkCounts()
        self._meter.flop, start = 0, time.monotonic()
        self._train_epoch()
        self._speed = self._speed_of(time.monotonic() - start)
        validation_loss = self._validate()
        self._end_epoch(validation_loss)

    # Steps

    def _train_epoch(self) -> None:
        """Make the steps that are left of the present epoch."""
        self._engine.train()
        steps = epoch_steps(
            self._data.train,
            epoch=self.progress.epoch,
            seed=self._training.seed,
            global_batch_size=self._training.global_batch_size,
            micro_batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
            length=self._prefixes.num_rest_tokens,
        )
        for micro_batches in islice(steps, self.progress.step_in_epoch, None):
            if self.epoch_has_ended:
                break
            loss = self._end_step(self._applied_step(micro_batches))
            progress = self.progress
            note_step(progress.epoch, progress.step_in_epoch, self._steps_per_epoch, loss)
            self.after_step()

    def _applied_step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Make an optimizer step and return what `_step` returns.

        In float16 DeepSpeed skips a step whose gradient is not finite, and lowers the loss scale.
        The step is then made again, with the same examples and random numbers. So a skipped step
        changes nothing but the scale: neither the learning rate nor the examples that follow.
        """
        before = loss_scale(self._engine)
        totals = self._step(micro_batches)
        while not self._engine.was_step_applied():
            self._check_skipped_step(totals, before)
            before = loss_scale(self._engine)
            totals = self._step(micro_batches)
        return totals

    def _check_skipped_step(self, totals: Tensor, before: LossScale | None) -> None:
        """Note that a step was skipped; `before` is the scale that it had. Collective.

        Raises TrainingError on each worker if the NLL is not finite or the scale cannot be lower.
        """
        place = self._place_of_step()
        sum_over_workers(totals, place)
        if before is None or before.scale <= LEAST_SCALE:
            raise TrainingError(
                f"{place}: a gradient is not finite; lower training.learning_rate.peak, or check "
                "the graph's vectors" + ("" if before is None else "; llm.dtype=bfloat16 may help")
            )
        note(f"{place}: a gradient overflowed with loss scale {before.scale:g}; trying half of it")

    def _place_of_step(self) -> str:
        return f"epoch {self.progress.epoch}, step {self.progress.step + 1}"

    def _step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Try an optimizer step; return NLL (nats) and tokens of this worker's part, (2,) float64.

        An empty micro-batch stands in where the others have one more: some example goes through
        the model, with a gradient of zero.
        """
        totals = self._zeros()
        for position, micro_batch in enumerate(micro_batches):
            examples = micro_batch.examples
            number = position * world_size() + rank()
            torch.manual_seed(noise_seed(self._training.seed, self.progress.step, number))
            nll = self._engine(examples or self._data.train[:1])
            # DeepSpeed averages over workers and accumulation steps, while the loss is a mean over
            # the global batch's tokens.
            share = world_size() * len(micro_batches) / micro_batch.num_global_tokens
            self._backward(nll * (share if examples else 0.0))
            self._engine.step()
            totals += _nll_and_tokens(nll, examples)
        return totals

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(scaled(self._engine, loss))

    def _end_step(self, totals: Tensor) -> float:
        """Count a step and write a checkpoint if one is due; return the step's mean NLL.

        `totals` is what `_step` returns, and the mean is over all workers. Raises TrainingError on
        each worker if the NLL is not finite.
        """
        now = time.monotonic()
        is_time_to_look = totals.new_tensor([self._preemption.is_due()])
        nll, num_tokens, num_looking = sum_over_workers(
            torch.cat([totals, is_time_to_look]), self._place_of_step()
        )
        self.progress = self.progress.after_step(nll, num_tokens, now - self._step_ended)
        self._step_ended = now
        if not self.epoch_has_ended:
            self._checkpoint_if_due(look_for_notice=num_looking > 0)
        return nll / num_tokens

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self._engine.device)

    # Validation

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the mean NLL of all validation examples, nats a token; the same on each worker."""
        self._engine.eval()
        totals = self._zeros()
        for examples in validation_batches(
            self._data.validation,
            batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
            length=self._prefixes.num_rest_tokens,
        ):
            nll = self._engine(examples or self._data.validation[:1])
            totals += _nll_and_tokens(nll, examples)
        place = f"validation after epoch {self.progress.epoch}"
        nll, num_tokens = sum_over_workers(totals, place)
        return nll / num_tokens

    def _end_epoch(self, validation_loss: float) -> None:
        """Report the epoch's row, with a checkpoint."""
        row = {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "train_loss": self.progress.train_loss,
            "validation_loss": validation_loss,
            "seconds": self.progress.epoch_seconds + time.monotonic() - self._step_ended,
            **self._work(),
            **self._speed,
            "micro_batch_size": self._micro_batch_size,
            "num_train_pairs": len(self._data.train),
            "num_left_out": dict(self._data.left_out),
            "hidden_size": self._engine.module.model.config.hidden_size,
        }
        scale = loss_scale(self._engine)
        if scale is not None:
            row["loss_scale"] = scale.scale
        self.progress = self.progress.after_epoch(row)
        if self.progress.evaluations_without_gain == 0:
            self._best = gathered_state(self._adapters)
        report(row, self._checkpoint())
        self._step_ended = time.monotonic()

    def _speed_of(self, seconds: float) -> dict[str, float]:
        """Return the speed of the steps since the epoch, or this process, began. Collective."""
        counts, device = self._prefixes.counts, worker_device()
        numbers = self._zeros()
        numbers += numbers.new_tensor([counts.positions - counts.padding, self._meter.flop])
        if world_size() > 1:
            dist.all_reduce(numbers)
        num_tokens, flop = numbers.tolist()
        if num_tokens == 0:  # a run that goes on at the end of an epoch
            return {}
        peak = self._training.peak_tflops
        if peak is None and device.type == "cuda":
            peak = peak_tflops(torch.cuda.get_device_name(device), self._engine.module.model.dtype)
        return Speed(num_tokens, flop, seconds, world_size()).row(peak)

    def _work(self) -> dict[str, float]:
        """Return what the epoch's passes consisted of, for all workers together. Collective."""
        counts, num_bytes = self._prefixes.counts, self._prefixes.num_bytes
        numbers = torch.tensor(
            [counts.padding, counts.positions, counts.kept_rows, counts.rows, num_bytes],
            dtype=torch.float64,
            device=self._engine.device,
        )
        if world_size() > 1:
            dist.all_reduce(numbers)
        padding, positions, kept_rows, rows, num_bytes = numbers.tolist()
        return {
            "padding_share": padding / positions,
            "prefix_hit_share": kept_rows / rows,
            "prefix_cache_gib": num_bytes / 2**30,
        }

    # Checkpoints

    def _resume(self, checkpoint: "_Checkpoint") -> None:
        """Go on from the checkpoint."""
        self.progress = replace(checkpoint.progress, micro_batch_size=self._micro_batch_size)
        trained, self._best = checkpoint.trained, checkpoint.best
        # Adam has no state before its first step, so a step is made, with gradients of zero.
        for _ in range(self._engine.gradient_accumulation_steps()):
            self._backward(self._engine(self._data.train[:1]) * 0.0)
            self._engine.step()
        states = {
            parameter: WholeState(
                trained.parameter[name], trained.exp_avg[name], trained.exp_avg_sq[name]
            )
            for name, parameter in self._trained.items()
        }
        restore_states(self._engine, states, self.progress.step)
        if self.progress.loss_scale is not None:
            assert self.progress.steps_since_overflow is not None
            scale = LossScale(self.progress.loss_scale, self.progress.steps_since_overflow)
            set_loss_scale(self._engine, scale)
        note(
            f"epoch {self.progress.epoch}, step {self.progress.step}: going on from the "
            f"checkpoint, on {world_size()} workers"
        )

    def _checkpoint_if_due(self, *, look_for_notice: bool) -> None:
        every = self._training.steps_per_checkpoint
        if look_for_notice and self._preemption.has_new_notice():
            self._report_checkpoint(", because a node is to be taken away")
        elif every and self.progress.step % every == 0:
            self._report_checkpoint("")

    def _report_checkpoint(self, reason: str) -> None:
        place = f"epoch {self.progress.epoch}, step {self.progress.step}"
        report({"note": f"{place}: checkpoint{reason}"}, self._checkpoint())

    def _checkpoint(self) -> dict[str, bytes] | None:
        """Return the checkpoint's files on rank 0, and None on others. Collective.

        Raises TrainingError on each worker if a weight is not finite.
        """
        states = {
            name: whole_state(self._engine, parameter) for name, parameter in self._trained.items()
        }
        wrong = [name for name, state in states.items() if not state.weight.isfinite().all()]
        if wrong:
            raise TrainingError(
                f"step {self.progress.step}: {', '.join(wrong)} hold NaN or infinity; "
                "lower training.learning_rate.peak"
            )
        if rank() != 0:
            return None
        trained = TrainedTensors(
            parameter={name: state.weight for name, state in states.items()},
            exp_avg={name: state.exp_avg for name, state in states.items()},
            exp_avg_sq={name: state.exp_avg_sq for name, state in states.items()},
        )
        return {**progress_file(self._whole_progress()), **adapter_files(trained, self._best)}

    def _whole_progress(self) -> AdapterProgress:
        """Return the progress with the loss scale."""
        scale = loss_scale(self._engine)
        if scale is None:
            return self.progress
        return replace(
            self.progress,
            loss_scale=scale.scale,
            steps_since_overflow=scale.steps_since_overflow,
        )


def _nll_and_tokens(nll: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return a batch's NLL and number of labels, (2,) float64 on its device; zeros without rows."""
    num_tokens = sum(len(example.label_ids) for example in examples)
    nll = nll.detach().double() if examples else nll.new_zeros((), dtype=torch.float64)
    return torch.stack([nll, nll.new_tensor(num_tokens)])


def sum_over_workers(totals: Tensor, place: str) -> list[float]:
    """Return the sums over all workers of `totals`: NLL, tokens and any others, float64.

    Raises TrainingError on each worker if the NLL is not finite; `place` says where in the run.
    """
    if world_size() > 1:
        dist.all_reduce(totals)
    nll, num_tokens, *others = totals.tolist()
    if not math.isfinite(nll):
        raise TrainingError(
            f"{place}: the loss is {nll / num_tokens}; lower training.learning_rate.peak, or check "
            "the graph's vectors"
        )
    return [nll, num_tokens, *others]

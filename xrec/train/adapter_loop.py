"""Adapter training: dataset, graph and a frozen language model in, adapter artifact out.

Ray Train starts the workers, DeepSpeed shards the frozen model (ZeRO-3) and trains the adapters only. The loss is the
mean NLL of the explanations' tokens and end tokens over the global batch, whatever the number of workers.
"""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import torch.distributed

from xrec.adapter.artifact import WEIGHTS, AdapterConfig, write_adapter
from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.adapter.pairs import PairPrompts
from xrec.config import TrainAdapterConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError, ConfigError, DataError, TrainingError
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.llm.examples import Example, collate
from xrec.llm.model import load_model, load_tokenizer, resolve_dtype
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import Location, Manifest, finished, open_location, read_manifest
from xrec.train.adapter_batches import epoch_steps, validation_batches
from xrec.train.adapter_module import ExplanationLoss, deepspeed_config, gathered_embedding_scale, gathered_state, sharded_loading
from xrec.train.ray_loop import fit, initialize_engine, rank, report, worker_device, worker_uri, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

logger = logging.getLogger("xrec")

_CHECKPOINTS = "checkpoints"


def train_adapter(config: TrainAdapterConfig) -> Manifest:
    """Train and write the adapter artifact; returns the manifest that is there already if this very run is finished.

    Raises ArtifactMismatchError (graph of another dataset, another run's output), ConfigError, DataError, ModelError,
    TrainingError.
    """
    _check_batch_sizes(config)
    output = open_location(config.artifact("adapter"), config.storage)
    dataset = read_manifest(open_location(config.artifact("dataset"), config.storage), "dataset")
    graph = read_manifest(open_location(config.artifact("graph"), config.storage), "graph")
    if graph.inputs["dataset"] != dataset.fingerprint:
        raise ArtifactMismatchError(
            f"{config.artifact('graph')}: trained on dataset {graph.inputs['dataset']}, but {config.artifact('dataset')} is "
            f"{dataset.fingerprint}; train the graph again, or give its dataset"
        )
    base_model = model_fingerprint(resolve_model(config.llm.model, config.llm.cache_dir, config.storage))
    run_config = _run_config(config)
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint, "base_model": base_model}
    done = finished(output, "adapter", run_config, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    outcome = fit(
        train_loop,
        {"config": _for_workers(config)},
        scaling=config.scaling,
        storage=output,
        name=_CHECKPOINTS,
        score="validation_loss",
        mode="min",
        on_report=_log_report,
    )
    manifest = write_adapter(
        output,
        safetensors.torch.load(outcome.read_checkpoint_file(WEIGHTS)),
        AdapterConfig(
            embedding_dim=graph.config["model"]["embedding_dim"],
            hidden_size=outcome.best["hidden_size"],
            model=config.model,
            prompt=config.prompt,
            base_model=config.llm.model,
            base_model_fingerprint=base_model,
            graph_fingerprint=graph.fingerprint,
        ),
        run_config=run_config,
        inputs=inputs,
        metrics=outcome.best,
        extra_files={"history.json": json.dumps(outcome.history, indent=2).encode()},
    )
    (output / _CHECKPOINTS).delete()
    return manifest


def train_loop(loop_config: dict[str, Any]) -> None:
    """One worker's training, from its argument only: {"config": TrainAdapterConfig with URIs that a worker can open}."""
    config: TrainAdapterConfig = loop_config["config"]
    torch.manual_seed(config.training.seed)
    data = _load_examples(config)
    steps_per_epoch = len(data.train) // config.training.global_batch_size
    num_steps = min(config.training.max_steps or math.inf, steps_per_epoch * config.training.num_epochs)
    engine, adapters = build_engine(config, data.graph, num_steps=int(num_steps))
    best, evaluations_without_gain, step = math.inf, 0, 0
    for epoch in range(1, config.training.num_epochs + 1):
        started = time.monotonic()
        train_loss, steps = _train_epoch(engine, data.train, config, epoch, max_steps=int(num_steps) - step)
        step += steps
        validation_loss = _validate(engine, data.validation, config.training.micro_batch_size)
        metrics = {
            "epoch": epoch,
            "step": step,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "seconds": time.monotonic() - started,
            "num_train_pairs": len(data.train),
            "num_left_out": dict(data.left_out),
            "hidden_size": engine.module.model.config.hidden_size,
        }
        report(metrics, {WEIGHTS: safetensors.torch.save(gathered_state(adapters))})
        evaluations_without_gain = 0 if validation_loss < best else evaluations_without_gain + 1
        best = min(best, validation_loss)
        if evaluations_without_gain >= config.training.patience or step >= num_steps:
            break


def build_engine(config: TrainAdapterConfig, graph: GraphEmbeddings, *, num_steps: int) -> tuple["DeepSpeedEngine", Adapters]:
    """The DeepSpeed engine of a worker over the frozen model with fresh adapters, the same on every worker."""
    device = worker_device()
    dtype = resolve_dtype(config.llm.dtype, device)
    settings = deepspeed_config(config, dtype=dtype, num_steps=num_steps)
    sharding = sharded_loading(config, settings)
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    model = load_model(folder, dtype=dtype, device=None, attn_implementation=config.llm.attn_implementation)
    scale = gathered_embedding_scale(model)
    del sharding  # the adapters are small, and made whole
    torch.manual_seed(config.training.seed)
    adapters = build_adapters(config.model, embedding_dim=graph.users.shape[1], hidden_size=model.config.hidden_size)
    adapters.user.fit_input(graph.users, scale)
    adapters.item.fit_input(graph.items, scale)
    attach_adapters(model, adapters, user_vectors=graph.users, item_vectors=graph.items)
    module = ExplanationLoss(model)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.training.learning_rate.peak, weight_decay=config.training.weight_decay)
    engine = initialize_engine(module, optimizer, settings)
    torch.manual_seed(config.training.seed + 1 + rank())  # gating noise differs between the workers
    return engine, adapters


@dataclass(frozen=True)
class _Data:
    train: list[Example]
    validation: list[Example]
    left_out: Counter[str]
    graph: GraphEmbeddings


def _load_examples(config: TrainAdapterConfig) -> _Data:
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    graph = read_graph(open_location(config.artifact("graph"), config.storage))
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    prompts = _pair_prompts(config, dataset, graph, str(folder))
    train, left_out = prompts.examples(dataset.explained_pairs("train"), config.training.max_explanation_tokens)
    held_out = dataset.explained_pairs("validation")
    validation, _ = prompts.examples(held_out.slice(0, config.training.max_validation_pairs), config.training.max_explanation_tokens)
    if len(train) < config.training.global_batch_size or not validation:
        raise DataError(
            f"{len(train)} training and {len(validation)} validation pairs with an explanation that fits ({dict(left_out)} left out); expected "
            f"at least training.global_batch_size = {config.training.global_batch_size} and 1: lower it, or raise the limits"
        )
    return _Data(train, validation, left_out, graph)


def _pair_prompts(config: TrainAdapterConfig, dataset: Dataset, graph: GraphEmbeddings, folder: str) -> PairPrompts:
    from pathlib import Path

    from transformers import AutoConfig

    from xrec.llm.collaborative import Vocabulary

    num_text_tokens = AutoConfig.from_pretrained(folder).vocab_size
    vocabulary = Vocabulary(num_text_tokens, len(graph.users), len(graph.items))
    return PairPrompts(dataset, PromptBuilder(load_tokenizer(Path(folder)), config.prompt, vocabulary))


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
    ):
        if steps == max_steps:
            break
        for micro_batch in micro_batches:
            total_nll = engine(collate(micro_batch.examples).to(engine.device))
            # DeepSpeed averages over workers and accumulation steps; the loss is a mean over the global batch's tokens.
            engine.backward(total_nll * (world_size() * len(micro_batches) / micro_batch.num_global_tokens))
            engine.step()
            totals += torch.tensor([total_nll.item(), sum(len(example.label_ids) for example in micro_batch.examples)])
        steps += 1
    return _global_mean(totals), steps


@torch.no_grad()
def _validate(engine: "DeepSpeedEngine", examples: Sequence[Example], batch_size: int) -> float:
    """Mean NLL in nats a token over all validation examples, the same on every worker."""
    engine.eval()
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in validation_batches(examples, batch_size=batch_size, rank=rank(), world_size=world_size()):
        nll = engine(collate(batch or examples[:1]).to(engine.device)).item()
        if batch:
            totals += torch.tensor([nll, sum(len(example.label_ids) for example in batch)])
    return _global_mean(totals)


def _global_mean(totals: torch.Tensor) -> float:
    """[sum, count] of this worker to the mean over all workers; raises TrainingError if it is not a number."""
    totals = totals.to(worker_device(), torch.float32 if worker_device().type == "mps" else torch.float64)
    if world_size() > 1:
        torch.distributed.all_reduce(totals)
    mean = (totals[0] / totals[1]).item()
    if not math.isfinite(mean):
        raise TrainingError(f"the loss is {mean}; lower training.learning_rate.peak, or check the graph's vectors")
    return mean


def _check_batch_sizes(config: TrainAdapterConfig) -> None:
    training, num_workers = config.training, config.scaling.num_workers
    if training.global_batch_size % (training.micro_batch_size * num_workers):
        raise ConfigError(
            f"training.global_batch_size = {training.global_batch_size} is no multiple of training.micro_batch_size * scaling.num_workers = "
            f"{training.micro_batch_size} * {num_workers}; change one of them"
        )


def _run_config(config: TrainAdapterConfig) -> dict[str, Any]:
    """The settings that the adapter's content depends on."""
    values = config.model_dump(mode="json", include={"model", "prompt", "training"})
    return {**values, "dtype": config.llm.dtype}


def _for_workers(config: TrainAdapterConfig) -> TrainAdapterConfig:
    locations = {name: open_location(config.artifact(name), config.storage) for name in ("dataset", "graph")}
    return config.model_copy(
        update={
            **{name: worker_uri(location) for name, location in locations.items()},
            "llm": config.llm.model_copy(update={"model": _absolute_model(config.llm.model)}),
        }
    )


def _absolute_model(source: str) -> str:
    from pathlib import Path

    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source


def _log_report(number: int, metrics: dict[str, Any]) -> None:
    logger.info(
        "epoch %d, step %d: training loss %.3f, validation loss %.3f nats a token (%.0f s)",
        metrics["epoch"],
        metrics["step"],
        metrics["train_loss"],
        metrics["validation_loss"],
        metrics["seconds"],
    )


__all__ = ["Location", "build_engine", "train_adapter", "train_loop"]

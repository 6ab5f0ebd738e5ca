"""One worker of the low-rank weights' training: every worker holds the whole frozen model.

The loss is the mean NLL of the explanations' tokens and end tokens over the global batch, as that
of the adapters. Batches follow from seed and epoch, so a run goes on where its last checkpoint was.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from xrec.adapter.pairs import PairPrompts
from xrec.aspects import read_chooser
from xrec.config.comparison import ComparisonConfig
from xrec.config.lora import LoraConfig
from xrec.data.dataset import read_dataset
from xrec.data.drawn import drawn_explanations
from xrec.errors import DataError, TrainingError
from xrec.lab.compare.lora.weights import add_lora, set_weights, trained_weights, weights_of
from xrec.llm.collaborative import Vocabulary
from xrec.llm.examples import Example, collate, token_nll
from xrec.llm.model import (
    load_model,
    load_tokenizer,
    read_text_config,
    resolve_attention,
    resolve_dtype,
)
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.storage import location_of
from xrec.train.checkpoint import tensors_below
from xrec.train.data import MicroBatch, epoch_steps, noise_seed
from xrec.train.ray_worker import (
    last_checkpoint,
    note,
    note_step,
    rank,
    report,
    worker_device,
    world_size,
)
from xrec.train.schedule import learning_rate_share

PROGRESS, STATE = "progress.json", "state.safetensors"


@dataclass
class LoraProgress:
    """How far the training is. `seconds` are those of all steps so far."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0


def lora_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "config", a ComparisonConfig with URIs that a worker can open, and "lora", the
    LoraConfig of the run.
    """
    config: ComparisonConfig = loop_config["config"]
    LoraWorker(config, loop_config["lora"], training_examples(config, loop_config["lora"])).train()


def training_examples(config: ComparisonConfig, lora: LoraConfig) -> list[Example]:
    """Prompts in words only, with explanations; raises DataError if they are too few."""
    dataset, llm = read_dataset(location_of(config, "dataset")), config.language_model
    folder = resolve_model(llm.model, llm.cache_dir, config.storage)
    vocabulary = Vocabulary(
        read_text_config(folder).vocab_size, dataset.num_users, dataset.num_items, num_tokens=0
    )
    builder = PromptBuilder(load_tokenizer(folder), config.prompt, vocabulary)
    chooser = None
    if config.prompt.aspects:
        chooser = read_chooser(location_of(config, "aspects"), dataset)
    explained = drawn_explanations(dataset, dataset.explained_pairs("train"), lora.max_pairs)
    prompts = PairPrompts(dataset, builder, chooser)
    examples, left_out = prompts.examples(explained, lora.max_explanation_tokens)
    if len(examples) < lora.global_batch_size:
        raise DataError(
            f"{len(examples)} training pairs with an explanation that fits ({dict(left_out)} left "
            f"out); expected at least lora.global_batch_size = {lora.global_batch_size}: lower it, "
            "or raise the limits"
        )
    return examples


class LoraWorker:
    """The model with its low-rank weights, their optimizer, and the steps."""

    def __init__(self, config: ComparisonConfig, lora: LoraConfig, examples: list[Example]):
        self._lora, self._examples = lora, examples
        llm, device = config.language_model, worker_device()
        model = load_model(
            resolve_model(llm.model, llm.cache_dir, config.storage),
            dtype=resolve_dtype(llm.dtype, device),
            device=device,
            attn_implementation=resolve_attention(llm.attn_implementation, device),
        )
        self._model = add_lora(model, lora).to(device)
        self._weights = list(trained_weights(self._model).values())
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=0.0, weight_decay=lora.weight_decay, foreach=False
        )
        self._steps_per_epoch = len(examples) // lora.global_batch_size
        self._num_steps = self._steps_per_epoch * lora.num_epochs
        self._rate_share = learning_rate_share(lora.learning_rate, self._num_steps)
        self._progress = LoraProgress()
        self._resume()

    def train(self) -> None:
        """Make the steps that are left, with checkpoints, and report the weights at the end."""
        self._model.train()
        for micro_batches in self._steps_left():
            started = time.monotonic()
            self._progress.loss = self._step(micro_batches)
            self._progress.step += 1
            self._progress.seconds += time.monotonic() - started
            note_step(self._epoch, self._progress.step, self._num_steps, self._progress.loss)
            if self._progress.step % self._lora.steps_per_checkpoint == 0:
                self._report("checkpoint")
        self._report("finished")

    @property
    def _epoch(self) -> int:
        return self._progress.step // self._steps_per_epoch + 1

    def _steps_left(self) -> Iterator[list[MicroBatch]]:
        while self._progress.step < self._num_steps:
            steps = epoch_steps(
                self._examples,
                epoch=self._epoch,
                seed=self._lora.seed,
                global_batch_size=self._lora.global_batch_size,
                micro_batch_size=self._lora.micro_batch_size,
                rank=rank(),
                world_size=world_size(),
            )
            yield from islice(steps, self._progress.step % self._steps_per_epoch, None)

    def _step(self, micro_batches: list[MicroBatch]) -> float:
        """Make an optimizer step; returns the mean NLL of its labels, nats a token."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._lora.learning_rate.peak * self._rate_share(self._progress.step)
        self._optimizer.zero_grad(set_to_none=False)
        total = torch.zeros((), device=worker_device(), dtype=torch.float64)
        for position, micro_batch in enumerate(micro_batches):
            if micro_batch.examples:
                number = position * world_size() + rank()
                torch.manual_seed(noise_seed(self._lora.seed, self._progress.step, number))
                batch = collate(micro_batch.examples).to(worker_device())
                nll = token_nll(self._model, batch).sum() / micro_batch.num_global_tokens
                nll.backward()
                total += nll.detach().double()
        gradients = [_gradient(weight) for weight in self._weights]
        if world_size() > 1:
            for tensor in (*gradients, total):
                dist.all_reduce(tensor)
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"step {self._progress.step + 1}: the loss is {float(total)}; lower "
                "lora.learning_rate.peak"
            )
        if self._lora.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(self._weights, self._lora.gradient_clipping)
        self._optimizer.step()
        return float(total)

    # Checkpoints

    def _report(self, what: str) -> None:
        row = {"note": f"step {self._progress.step} of {self._num_steps}: {what}"}
        files = None
        if rank() == 0:
            states = [self._optimizer.state[weight] for weight in self._weights]
            moments = {
                f"{name}/{place}": state[name].float().cpu().contiguous()
                for place, state in enumerate(states)
                for name in ("exp_avg", "exp_avg_sq")
                if name in state
            }
            weights = {f"weights/{name}": value for name, value in weights_of(self._model).items()}
            files = {
                PROGRESS: json.dumps(vars(self._progress)).encode(),
                STATE: safetensors.torch.save({**weights, **moments}),
            }
        report(row, files)

    def _resume(self) -> None:
        with last_checkpoint() as read:
            if read is None:
                return
            self._progress = LoraProgress(**json.loads(read(PROGRESS)))
            state = safetensors.torch.load(read(STATE))
        set_weights(self._model, tensors_below(state, "weights"))
        for name in ("exp_avg", "exp_avg_sq"):
            for place, tensor in tensors_below(state, name).items():
                weight = self._weights[int(place)]
                self._optimizer.state[weight][name] = tensor.to(weight.device)
                self._optimizer.state[weight]["step"] = torch.tensor(float(self._progress.step))
        note(f"step {self._progress.step}: going on from the checkpoint")


def _gradient(weight: torch.nn.Parameter) -> Tensor:
    """The gradient, zeros where a worker had only empty batches."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad

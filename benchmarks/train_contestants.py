"""Three ways to train the same adapters through the same frozen model.

They are a plain loop, Hugging Face's Trainer, and the parts of xrec's own recipe.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from benchmarks.train_setup import GRADIENT_CLIPPING, LEARNING_RATE, Epoch, Run, Setup
from xrec.llm.examples import IGNORE, Example
from xrec.llm.model import resolve_attention
from xrec.llm.prefix import PrefixCache
from xrec.train.adapter_model import ExplanationLoss
from xrec.train.data import epoch_steps


def run_plain(setup: Setup, num_epochs: int) -> Run:
    """Train as the public code does.

    Each row is a forward pass with the logits of the whole sequence, and an optimizer step.
    """
    setup.model.train()
    optimizer, rng = setup.optimizer(), torch.Generator().manual_seed(setup.contest.seed)
    for _ in range(num_epochs):
        start, losses = time.perf_counter(), []
        for index in torch.randperm(len(setup.examples), generator=rng).tolist():
            loss = whole_row_loss(setup, setup.examples[index])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(setup.trainable, GRADIENT_CLIPPING)
            optimizer.step()
            optimizer.zero_grad()
            losses.append((loss.item(), len(setup.examples[index].label_ids)))
        yield Epoch(
            time.perf_counter() - start,
            sum(loss * count for loss, count in losses) / sum(count for _, count in losses),
        )


def whole_row_loss(setup: Setup, example: Example) -> Tensor:
    """Return the mean NLL of a row's labels, by the model's own loss."""
    row = _as_features(example)
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    loss: Tensor = setup.model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def run_trainer(setup: Setup, num_epochs: int) -> Run:
    """Train with Hugging Face's Trainer.

    Batches are grouped by length and padded by its collator; the loss is the model's own.
    """
    clock = _Clock()
    batch_size = setup.contest.batch_size
    with tempfile.TemporaryDirectory(prefix="xrec-trainer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=num_epochs,
            train_sampling_strategy="group_by_length",
            learning_rate=LEARNING_RATE,
            max_grad_norm=GRADIENT_CLIPPING,
            lr_scheduler_type="constant",
            seed=setup.contest.seed,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        collator = DataCollatorForSeq2Seq(setup.tokenizer, label_pad_token_id=IGNORE)
        trainer = Trainer(
            setup.model,
            arguments,
            data_collator=collator,
            train_dataset=_Features(setup.examples),
            optimizers=(setup.optimizer(), None),
            callbacks=[clock],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    for seconds, loss in zip(clock.seconds, losses, strict=True):
        yield Epoch(seconds, loss)


def run_ours(setup: Setup, num_epochs: int, budget_bytes: int) -> Run:
    """Train with the parts of xrec's own recipe, without Ray and DeepSpeed.

    Each worker has the whole model, and the workers sum their gradients.
    """
    rank, num_workers = (
        (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    )
    optimizer, batch_size = setup.optimizer(), setup.contest.batch_size
    setup.model.set_attn_implementation(resolve_attention("auto", setup.model.device))
    prefixes = PrefixCache(setup.model, setup.examples, budget_bytes=budget_bytes)
    module = ExplanationLoss(setup.model, prefixes).train()
    sizes = {
        "global_batch_size": batch_size,
        "micro_batch_size": batch_size // num_workers,
        "rank": rank,
        "world_size": num_workers,
    }
    for epoch in range(1, num_epochs + 1):
        start, total, num_tokens = time.perf_counter(), 0.0, 0
        steps = epoch_steps(
            setup.examples,
            epoch=epoch,
            seed=setup.contest.seed,
            length=prefixes.num_rest_tokens,
            **sizes,
        )
        for micro_batches in steps:
            for micro_batch in micro_batches:
                nll = module(micro_batch.examples)
                (nll / micro_batch.num_global_tokens).backward()
                total += nll.item()
            num_tokens += micro_batches[0].num_global_tokens
            if num_workers > 1:
                for parameter in setup.trainable:
                    dist.all_reduce(parameter.grad)
            torch.nn.utils.clip_grad_norm_(setup.trainable, GRADIENT_CLIPPING)
            optimizer.step()
            optimizer.zero_grad()
        yield Epoch(time.perf_counter() - start, total / num_tokens)


CONTESTANTS: dict[str, Callable[[Setup, int], Run]] = {
    "plain": run_plain,
    "trainer": run_trainer,
    "ours": lambda setup, num_epochs: run_ours(setup, num_epochs, sys.maxsize),
    "ours-cache-off": lambda setup, num_epochs: run_ours(setup, num_epochs, 0),
}


def _as_features(example: Example) -> dict[str, list[int]]:
    input_ids = [*example.prompt_ids, *example.label_ids]
    return {
        "input_ids": input_ids,
        "attention_mask": [1] * len(input_ids),
        "labels": [IGNORE] * len(example.prompt_ids) + list(example.label_ids),
    }


class _Features(Dataset[dict[str, list[int]]]):
    def __init__(self, examples: list[Example]) -> None:
        self._rows = [_as_features(example) for example in examples]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._rows[index]


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Takes the seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)

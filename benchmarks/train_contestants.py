"""Three ways to train the same adapters through the same frozen model.

They are a plain loop, Hugging Face's Trainer, and the parts of xrec's own recipe. Pairs, model,
adapters, dtype, cores and seed are the same for all. In the prompts the collaborative tokens stand
after all texts.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import commonprefix  # it takes lists of token ids too
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from xrec.adapter.model import attach_adapters, build_adapters, embedding_scale
from xrec.adapter.pairs import PairPrompts
from xrec.config import AdapterModelConfig, LLMConfig, PromptConfig
from xrec.data import read_dataset
from xrec.graph.artifact import read_graph
from xrec.llm.loss import IGNORE, Example, ExplanationLoss, PrefixCache, num_prefix_tokens
from xrec.llm.model import (
    load_model,
    load_tokenizer,
    resolve_attention,
    resolve_device,
    resolve_dtype,
)
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.storage import open_location
from xrec.train.data import epoch_steps

PROMPT = PromptConfig(
    instruction="Explain in one sentence why this user would enjoy this business.",
    user="User: {user_profile}",
    item="Business: {item_title}. {item_profile}",
    collaborative="{user}{item}",
)
LEARNING_RATE, GRADIENT_CLIPPING, MAX_EXPLANATION_TOKENS, SEED = 1e-3, 1.0, 96, 0
_PREFIX_CACHE_BYTES = 2**30  # as training.prefix_cache_gib has it


@dataclass(frozen=True)
class Contest:
    """What is the same for all; the graph lies beside the dataset."""

    dataset: str
    llm: str
    num_pairs: int
    num_epochs: int
    batch_size: int
    dtype: Literal["float32", "bfloat16"]
    cores: int
    device: Literal["auto", "cuda", "cpu"] = "cpu"


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process; only the adapters have gradients."""

    contest: Contest
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example]

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The adapters' weights."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def optimizer(self) -> torch.optim.AdamW:
        """Return the optimizer, which is the same for all contestants."""
        return torch.optim.AdamW(self.trainable, lr=LEARNING_RATE, weight_decay=0.0)

    def step(self, optimizer: torch.optim.AdamW) -> None:
        """Clip the gradients and make an optimizer step."""
        nn.utils.clip_grad_norm_(self.trainable, GRADIENT_CLIPPING)
        optimizer.step()
        optimizer.zero_grad()


@dataclass(frozen=True)
class Epoch:
    """One pass over the pairs: wall-clock seconds, and loss.

    The loss is in nats a label token. Of several workers, each has its own pairs' part of the mean
    over all workers' tokens.
    """

    seconds: float
    loss: float


Run = Iterator[Epoch]


def prepare(contest: Contest, *, num_threads: int = 1) -> Setup:
    """Read dataset and graph, load the model, attach fresh adapters, build the examples."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(SEED)
    dataset = read_dataset(open_location(contest.dataset))
    graph = read_graph(open_location(f"{contest.dataset.rpartition('/')[0]}/graph"))
    folder, device = resolve_model(LLMConfig(model=contest.llm)), resolve_device(contest.device)
    model = load_model(folder, dtype=resolve_dtype(contest.dtype, device), device=device)
    tokenizer = load_tokenizer(folder)
    sizes = {"embedding_dim": graph.users.shape[1], "hidden_size": model.config.hidden_size}
    adapters = build_adapters(AdapterModelConfig(), **sizes)
    scale = embedding_scale(model)
    adapters.user.fit_input(graph.users, scale)
    adapters.item.fit_input(graph.items, scale)
    vectors = {"user_vectors": graph.users, "item_vectors": graph.items}
    embedding = attach_adapters(model, adapters, **vectors)
    pairs = PairPrompts(dataset, PromptBuilder(tokenizer, PROMPT, embedding.vocabulary))
    explanations = dataset.explained_pairs("train").slice(0, contest.num_pairs)
    examples, _ = pairs.examples(explanations, MAX_EXPLANATION_TOKENS)
    return Setup(contest, model, tokenizer, examples)


def run_plain(setup: Setup) -> Run:
    """Train as the public code does.

    Each row is a forward pass with the logits of the whole sequence, and an optimizer step.
    """
    setup.model.train()
    optimizer, rng = setup.optimizer(), torch.Generator().manual_seed(SEED)
    for _ in range(setup.contest.num_epochs):
        start, total, num_tokens = time.perf_counter(), 0.0, 0
        for index in torch.randperm(len(setup.examples), generator=rng).tolist():
            example = setup.examples[index]
            loss = whole_row_loss(setup, example)
            loss.backward()
            setup.step(optimizer)
            total += loss.item() * len(example.label_ids)
            num_tokens += len(example.label_ids)
        yield Epoch(time.perf_counter() - start, total / num_tokens)


def whole_row_loss(setup: Setup, example: Example) -> Tensor:
    """Return the mean NLL of a row's labels, by the model's own loss."""
    row = _as_features(example)
    ids, labels = (
        torch.tensor([row[name]], device=setup.model.device) for name in ("input_ids", "labels")
    )
    loss: Tensor = setup.model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def run_trainer(setup: Setup) -> Run:
    """Train with Hugging Face's Trainer.

    Batches are grouped by length and padded by its collator; the loss is the model's own.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="xrec-trainer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setup.contest.batch_size,
            num_train_epochs=setup.contest.num_epochs,
            train_sampling_strategy="group_by_length",
            learning_rate=LEARNING_RATE,
            max_grad_norm=GRADIENT_CLIPPING,
            lr_scheduler_type="constant",
            seed=SEED,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=setup.model.device.type == "cpu",
        )
        collator = DataCollatorForSeq2Seq(setup.tokenizer, label_pad_token_id=IGNORE)
        trainer = Trainer(
            setup.model,
            arguments,
            data_collator=collator,
            train_dataset=list(map(_as_features, setup.examples)),
            optimizers=(setup.optimizer(), None),
            callbacks=[clock],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    for seconds, loss in zip(clock.seconds, losses, strict=True):
        yield Epoch(seconds, loss)


def run_ours(setup: Setup) -> Run:
    """Train with the parts of xrec's own recipe, without Ray and DeepSpeed.

    Each worker has the whole model, and the workers sum their gradients.
    """
    rank, num_workers = (
        (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    )
    optimizer, batch_size = setup.optimizer(), setup.contest.batch_size
    setup.model.set_attn_implementation(resolve_attention("auto", setup.model.device))
    num_text_tokens = setup.model.get_input_embeddings().vocabulary.num_text_tokens
    beginnings = [
        list(row.prompt_ids[: num_prefix_tokens(row.prompt_ids, num_text_tokens)])
        for row in setup.examples
    ]
    num_before = np.array(list(map(len, beginnings)), np.int32)
    lengths = np.array(list(map(len, setup.examples)), np.int32) - num_before
    num_label_tokens = np.array([len(row.label_ids) for row in setup.examples], np.int32)
    prefixes = PrefixCache(
        setup.model,
        commonprefix(beginnings),  # noqa: RUF071
        num_positions=int(num_before.max() + lengths.max()),
        budget_bytes=_PREFIX_CACHE_BYTES,
    )
    module = ExplanationLoss(setup.model, prefixes).train()
    for epoch in range(1, setup.contest.num_epochs + 1):
        start, total, num_tokens = time.perf_counter(), 0.0, 0
        steps = epoch_steps(
            lengths,
            num_label_tokens,
            epoch=epoch,
            seed=SEED,
            global_batch_size=batch_size,
            micro_batch_size=batch_size // num_workers,
            rank=rank,
            world_size=num_workers,
        )
        for (micro_batch,) in steps:
            nll = module([setup.examples[row] for row in micro_batch.rows])
            (nll / micro_batch.global_weight).backward()
            total += nll.item()
            num_tokens += micro_batch.global_weight
            if num_workers > 1:
                for parameter in setup.trainable:
                    dist.all_reduce(parameter.grad)
            setup.step(optimizer)
        yield Epoch(time.perf_counter() - start, total / num_tokens)


PLAIN, TRAINER, OURS = "plain", "trainer", "ours"
CONTESTANTS: dict[str, Callable[[Setup], Run]] = {
    PLAIN: run_plain,
    TRAINER: run_trainer,
    OURS: run_ours,
}


def _as_features(example: Example) -> dict[str, list[int]]:
    input_ids = [*example.prompt_ids, *example.label_ids]
    return {
        "input_ids": input_ids,
        "attention_mask": [1] * len(input_ids),
        "labels": [IGNORE] * len(example.prompt_ids) + list(example.label_ids),
    }


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Takes the seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)

"""Graph pretraining, one worker: epochs of steps, validation, checkpoints. What it starts from is a checkpoint, if there is one.

The loss and the metrics are those of the whole batch and of all users, whatever the number of workers and the mode
(`xrec.train.graph_engine_loop`): every worker reaches the same decisions.
"""

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from xrec.config.graph import GraphTrainingConfig, PretrainGraphConfig
from xrec.data.dataset import read_dataset
from xrec.errors import TrainingError
from xrec.graph import (
    Batch,
    LightGCN,
    Objective,
    Partition,
    batch_loss,
    blend,
    epoch_batches,
    layer0_penalty,
    normalized_adjacency,
)
from xrec.storage import open_location
from xrec.train.graph_checkpoint import (
    Progress,
    Rows,
    progress_file,
    read_progress,
    read_rows,
    rows_file,
)
from xrec.train.graph_data import SCORE, HeldOut, split_edges
from xrec.train.graph_engine_loop import adam_moments, build_engine, restore_optimizer
from xrec.train.graph_start import blend_weight, build_objective, build_partition, start_embeddings
from xrec.train.worker_loop import (
    last_checkpoint,
    note_step,
    rank,
    report,
    worker_device,
    world_size,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_DIVERGED = 3.0  # times the first epoch's loss


def train_loop_per_worker(loop_config: dict[str, Any]) -> None:
    """One worker's training, from its argument only: {"config": PretrainGraphConfig with URIs that a worker can open, "run": its fingerprint}."""
    config: PretrainGraphConfig = loop_config["config"]
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    worker = GraphWorker(
        config,
        split_edges(dataset, "train"),
        dataset.num_users,
        dataset.num_items,
        loop_config["run"],
    )
    validation = HeldOut.of(dataset, "validation").part(rank(), world_size())
    while not worker.has_finished:
        worker.run_epoch(validation)


class GraphWorker:
    """A worker between two epochs: its engine, its rows of the best epoch's vectors, and how far the run is."""

    def __init__(
        self, config: PretrainGraphConfig, edges: Tensor, num_users: int, num_items: int, run: str
    ) -> None:
        """Takes up the last checkpoint if there is one; raises ArtifactMismatchError if that is of another run than `run`."""
        self._training: GraphTrainingConfig = config.training
        self._edges = edges
        self._objective: Objective = build_objective(
            config.training.loss, edges, num_users, num_items
        )
        self._partition = build_partition(
            config.parallelism, edges, num_users, num_items, rank=rank(), world_size=world_size()
        )
        self._adjacency = normalized_adjacency(edges, num_users, num_items, self._partition).to(
            worker_device()
        )
        self.progress, rows = _last_state(run, self._partition)
        start = start_embeddings(config, edges, num_users, num_items, self._partition)
        self._blend_weight = blend_weight(config.model)
        self._start = (
            self._partition.table(start).to(worker_device()).split([num_users, num_items])
            if self._blend_weight
            else None
        )
        table = rows.embeddings if rows else start.clone()  # training changes it; the start stays
        model = LightGCN(
            table.to(worker_device()), num_users, config.model.num_layers, self._partition
        )
        self._engine: DeepSpeedEngine = build_engine(model, config.training)
        self._best = rows.best if rows else torch.zeros(table.shape)
        if rows is not None:
            restore_optimizer(self._engine, rows.exp_avg, rows.exp_avg_sq, self.progress.step)

    @property
    def has_finished(self) -> bool:
        """All epochs are done, or too many evaluations brought no gain."""
        return (
            self.progress.epoch >= self._training.num_epochs
            or self.progress.evaluations_without_gain >= self._training.patience
        )

    def run_epoch(self, validation: HeldOut) -> None:
        """Train for an epoch; validate and checkpoint as often as the config says, and at the end; report."""
        start, epoch = time.monotonic(), self.progress.epoch + 1
        loss, num_steps = self.train_epoch(epoch)
        is_last = epoch == self._training.num_epochs
        metrics = (
            self._evaluate(validation)
            if is_last or epoch % self._training.epochs_per_evaluation == 0
            else {}
        )
        now = {"seconds": round(time.monotonic() - start, 3), "time": round(time.time(), 3)}
        row = {
            "epoch": epoch,
            "loss": loss,
            "learning_rate": self._engine.get_lr()[0],
            **metrics,
            **now,
        }
        self.progress = self.progress.after_epoch(row, self.progress.step + num_steps)
        if metrics:
            self.progress = self.progress.after_evaluation(metrics[SCORE])
        is_due = self.has_finished or epoch % self._training.epochs_per_checkpoint == 0
        report(row, self._checkpoint() if is_due else None, every_worker=True)

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """One pass over the interactions; returns the mean loss and the number of steps."""
        settings = {
            name: getattr(self._training, name)
            for name in ("steps_per_epoch", "micro_batch_size", "seed")
        }
        total, num_steps = torch.zeros((), dtype=torch.float64, device=self._engine.device), 0
        for num_steps, batch in enumerate(
            epoch_batches(self._edges, self._objective.negatives, epoch=epoch, **settings), start=1
        ):
            part = self._step(batch)
            total += part * len(batch)
            note_step(epoch, num_steps, self._training.steps_per_epoch, float(part) * world_size())
        loss = self._sound(epoch, total) / self._edges.shape[1]
        check_convergence(
            epoch, loss, self.progress.history[0]["loss"] if self.progress.history else loss
        )
        return loss, num_steps

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step; returns this worker's part of the batch's loss, (): the parts of all workers add up to it."""
        users, items = self._engine(self._adjacency)
        num_copies = world_size() // self._partition.blocks.num_blocks
        part = batch_loss(
            users, items, batch, self._objective, rank=rank(), world_size=world_size()
        )
        if self._training.l2_weight:
            part = part + self._training.l2_weight / num_copies * layer0_penalty(
                self._engine.module, batch, self._objective
            )
        self._engine.backward(
            part * num_copies
        )  # DeepSpeed takes the mean over the workers with the same rows; parts add up
        self._engine.step()
        return part.detach()

    def _sound(self, epoch: int, total: Tensor) -> float:
        """The sum of all workers' `total`; raises TrainingError, on each of them, if it or a vector is not finite."""
        wrong = (~self._engine.module.embeddings.isfinite()).any(dim=1).sum()
        sums = torch.stack([total, wrong.to(total.dtype)])
        dist.all_reduce(sums)
        loss, num_wrong = sums.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of epoch {epoch} is {loss}; expected a finite number; lower training.learning_rate"
            )
        if num_wrong:
            raise TrainingError(
                f"{num_wrong:g} layer-0 embeddings hold NaN or infinity after epoch {epoch}; lower training.learning_rate"
            )
        return float(loss)

    @torch.no_grad()
    def _evaluate(self, validation: HeldOut) -> dict[str, float]:
        """The metrics over all workers' validation users; the vectors are kept if they are the best."""
        users, items = self._vectors()
        own = validation.score(users, items)
        sums = torch.tensor(
            [len(validation.users), *(value * len(validation.users) for value in own.values())],
            dtype=torch.float64,
        )
        sums = sums.to(users.device)
        dist.all_reduce(sums)
        metrics = dict(zip(own, (sums[1:] / sums[0]).tolist(), strict=True))
        if metrics[SCORE] > self.progress.best_score:
            self._best = self._partition.own_rows(torch.cat([users, items])).cpu()
        return metrics

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors that rank, as the config says: users (U, D), items (I, D), the same on each worker."""
        trained = self._objective.vectors(*self._engine.module(self._adjacency))
        return blend(trained, self._start, self._blend_weight) if self._start else trained

    def _checkpoint(self) -> dict[str, bytes] | None:
        """The files of this worker: its rows, if no other holds the same ones; of rank 0 also how far the run is. Collective."""
        exp_avg, exp_avg_sq = adam_moments(self._engine)
        num_parts = self._partition.blocks.num_blocks
        if rank() >= num_parts:
            return None
        rows = Rows(self._engine.module.embeddings, exp_avg, exp_avg_sq, self._best)
        progress = progress_file(replace(self.progress, num_parts=num_parts)) if rank() == 0 else {}
        return {**rows_file(rank(), self._partition.node_ids, rows), **progress}


def check_convergence(epoch: int, loss: float, first_loss: float) -> None:
    """Raise TrainingError if the epoch's loss is far above `first_loss`, the first epoch's."""
    if loss > _DIVERGED * first_loss:
        raise TrainingError(
            f"the loss of epoch {epoch} is {loss:.4f}, that of epoch 1 was {first_loss:.4f}: training diverges; "
            "lower training.learning_rate, or raise training.warmup_steps"
        )


def _last_state(run: str, partition: Partition) -> tuple[Progress, Rows | None]:
    """How far the last checkpoint is, and this worker's rows of it; the start of `run` without one."""
    with last_checkpoint() as read:
        if read is None:
            return Progress(run), None
        progress = read_progress(read, run)
        return progress, read_rows(read, progress.num_parts, partition.node_ids)

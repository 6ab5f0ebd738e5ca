"""One worker of the graph's training: its epochs, steps, validation, and checkpoints.

The loss and the metrics cover the whole batch and all users, for any number of workers, so all
workers make the same decisions. Each worker holds its rows of the layer-0 table, their gradients,
and moments. For DeepSpeed the workers are one model-parallel group, and each is its own
data-parallel group, so that gradients of different rows are not averaged and rows are not sent to
others.
"""

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from xrec.config import PretrainGraphConfig
from xrec.data import read_dataset
from xrec.errors import TrainingError
from xrec.graph.blend import blend
from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import Objective
from xrec.graph.partition import Partition
from xrec.graph.sampling import Batch, epoch_batches
from xrec.graph.step import Scored, batch_losses, layer0_penalty
from xrec.storage import location_of
from xrec.train.checkpoint import (
    GraphProgress,
    Tensors,
    WholeState,
    progress_file,
    read_progress,
    read_rows,
    rows_file,
)
from xrec.train.deepspeed_engine import restore_states, whole_state
from xrec.train.graph_model import (
    ASPECT_LOSS_WEIGHT,
    BLEND_WEIGHT,
    SCORE,
    AspectLoss,
    GraphData,
    HeldOut,
    build_engine,
    build_objective,
    build_partition,
    later_embeddings,
    start_embeddings,
)
from xrec.train.ray_worker import (
    checkpoint_folder,
    note_step,
    rank,
    report,
    worker_device,
    world_size,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_DIVERGED = 3.0  # times the first epoch's loss


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker.

    `loop_config` has "config", a PretrainGraphConfig, "run", the fingerprint of the run, and
    "fold", the number of the fold to leave out, or None.
    """
    config: PretrainGraphConfig = loop_config["config"]
    dataset = read_dataset(location_of(config, "dataset"))
    fold = None if loop_config["fold"] is None else (loop_config["fold"], config.folds)
    data = GraphData.of(dataset, with_aspects=config.model.aspects, fold=fold)
    worker = GraphWorker(config, data, run=loop_config["run"])
    validation = HeldOut.of(dataset, data, config.training.seed)
    if config.start_from is not None:
        worker.rank_start(validation)
    while not worker.has_finished:
        worker.run_epoch(validation)
    data.delete_files()


class GraphWorker:
    """A worker between two epochs: its engine, its rows of the best vectors, and its progress."""

    def __init__(self, config: PretrainGraphConfig, data: GraphData, run: str) -> None:
        """Build the engine and resume run `run`, a fingerprint, from its last checkpoint.

        Raises ArtifactMismatchError if the checkpoint is another run's.
        """
        self._training, self._data = config.training, data
        device = worker_device()
        self._aspect_loss = AspectLoss(data, config) if len(data.aspects) else None
        self._objective: Objective = build_objective(
            config.training.loss, data.edges, data.num_users, data.num_items
        )
        self._partition = build_partition(data, rank(), world_size(), device)
        self._adjacency = data.adjacency(self._partition).to(device)
        self.progress, rows = _last_state(run, self._partition)
        start = start_embeddings(config, data, self._partition, device)
        self._blended = start if config.model.initialization == "spectral" else None
        if config.start_from is not None and rows is None:
            start = later_embeddings(config, data, self._partition, self._adjacency, start)
        # A copy, because training changes the table in place.
        table = rows["embeddings"].to(device) if rows else start.clone()
        model = LightGCN(table, data.num_users, config.model.num_layers, self._partition)
        self._engine: DeepSpeedEngine = build_engine(model, config.training)
        self._best = rows["best"] if rows else torch.zeros(table.shape)
        self._best_layer0 = rows["best_layer0"] if rows else torch.zeros(table.shape)
        if rows is not None:
            self._restore_optimizer(rows)

    @property
    def has_finished(self) -> bool:
        """Whether all epochs are done, or too many evaluations brought no gain."""
        return (
            self.progress.epoch > self._training.num_epochs
            or self.progress.evaluations_without_gain >= self._training.patience
        )

    def rank_start(self, validation: HeldOut) -> None:
        """Validate before the first epoch, because vectors of an earlier graph may be the best.

        If there are no epochs, write the checkpoint.
        """
        if not self.progress.evaluations:
            metrics = self._evaluate(validation, 0)
            if self.has_finished:
                report({"epoch": 0, **metrics}, self._checkpoint(), every_worker=True)

    def run_epoch(self, validation: HeldOut) -> None:
        """Train for an epoch, validate if due, and report with a checkpoint."""
        started, epoch = time.monotonic(), self.progress.epoch
        loss, num_steps = self.train_epoch(epoch)
        is_last = epoch == self._training.num_epochs
        is_evaluated = is_last or epoch % self._training.epochs_per_evaluation == 0
        metrics = self._evaluate(validation, epoch) if is_evaluated else {}
        row = {
            "epoch": epoch,
            "loss": loss,
            "learning_rate": self._engine.get_lr()[0],
            **metrics,
            "seconds": round(time.monotonic() - started, 3),
            "time": round(time.time(), 3),
        }
        self.progress = self.progress.after_epoch(row, num_steps)
        report(row, self._checkpoint(), every_worker=True)

    # Steps

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """Train on all interactions once; return the mean loss and the number of steps.

        Raises TrainingError if the loss or a vector is not finite, or if training diverges.
        """
        batches = epoch_batches(
            self._data.edges,
            self._objective.negatives,
            epoch=epoch,
            steps_per_epoch=self._training.steps_per_epoch,
            micro_batch_size=self._training.micro_batch_size,
            seed=self._training.seed,
            name=self._data.name,
        )
        total, num_steps = torch.zeros((), dtype=torch.float64, device=self._engine.device), 0
        num_edges = self._data.edges.shape[1]
        of_aspects = self._aspect_loss.batches(epoch, num_edges) if self._aspect_loss else iter(())
        per_epoch = self._training.steps_per_epoch
        before, all_steps = (epoch - 1) * per_epoch, self._training.num_epochs * per_epoch
        for num_steps, batch in enumerate(batches, start=1):
            part = self._step(batch, next(of_aspects, None))
            total += part * len(batch)
            note_step(epoch, before + num_steps, all_steps, part * world_size())
        loss = self._sum_of_finite(epoch, total) / num_edges
        first_loss = self.progress.history[0]["loss"] if self.progress.history else loss
        check_convergence(epoch, loss, first_loss)
        return loss, num_steps

    def _step(self, batch: Batch, aspect_batch: Batch | None) -> Tensor:
        """Make an optimizer step; return this worker's part of the batch's mean loss, a scalar."""
        vectors = self._engine(self._adjacency)
        share = rank(), world_size()
        scored = [Scored(batch, self._objective, self._data.num_users, share)]
        if self._aspect_loss is not None and aspect_batch is not None:
            scored.append(self._aspect_loss.scored(aspect_batch, share))
        part, *of_aspects = batch_losses(vectors, self._partition, scored)
        for each in of_aspects:
            part = part + ASPECT_LOSS_WEIGHT * each
        if self._training.l2_weight:
            penalty = layer0_penalty(self._engine.module, batch, self._objective)
            part = part + self._training.l2_weight * penalty
        self._engine.backward(part)
        self._engine.step()
        return part.detach()

    def _sum_of_finite(self, epoch: int, total: Tensor) -> float:
        """Return the sum of all workers' `total`; raise TrainingError if it is not finite."""
        wrong = (~self._engine.module.embeddings.isfinite()).any(dim=1).sum()
        sums = torch.stack([total, wrong.to(total.dtype)])
        dist.all_reduce(sums)
        loss, num_wrong = sums.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of epoch {epoch} is {loss}; lower training.learning_rate",
                code="loss_not_finite",
                key="training.learning_rate",
                saw=loss,
            )
        if num_wrong:
            raise TrainingError(
                f"{num_wrong:g} layer-0 embeddings hold NaN or infinity after epoch {epoch}; "
                "lower training.learning_rate",
                code="embeddings_not_finite",
                key="training.learning_rate",
                saw=int(num_wrong),
            )
        return float(loss)

    # Validation

    @torch.no_grad()
    def _evaluate(self, validation: HeldOut, epoch: int) -> dict[str, float]:
        """Record and return the metrics; keep the vectors if they are the best."""
        vectors = self._vectors()
        sizes = self._data.num_users, self._data.num_items
        metrics = validation.score(vectors, self._partition, sizes)
        self.progress = self.progress.after_evaluation(epoch, -metrics[SCORE])
        if self.progress.best_epoch == epoch:
            self._best = vectors.cpu()
            self._best_layer0 = self._engine.module.embeddings.detach().cpu().clone()
        return metrics

    def _vectors(self) -> Tensor:
        """Return this worker's rows (n, D) of the vectors that rank."""
        vectors: Tensor = self._objective.vectors(self._engine.module(self._adjacency))
        if self._blended is None:
            return vectors
        num_users = self._partition.num_own(self._data.num_users)
        trained, start = ((rows[:num_users], rows[num_users:]) for rows in (vectors, self._blended))
        return torch.cat(blend(trained, start, BLEND_WEIGHT, self._partition))

    # Checkpoints

    def _checkpoint(self) -> dict[str, bytes]:
        """Return this worker's files: its rows, and on rank 0 the progress."""
        table = self._engine.module.embeddings
        # Adam has no state before its first step.
        none = WholeState(table, torch.zeros_like(table), torch.zeros_like(table))
        state = whole_state(table) if self.progress.step else none
        moments = {"exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
        best = {"best": self._best, "best_layer0": self._best_layer0}
        rows = {"embeddings": table, **best, **moments}
        progress = (
            progress_file(replace(self.progress, num_parts=world_size())) if rank() == 0 else {}
        )
        return {**rows_file(rank(), self._partition.node_ids, rows), **progress}

    def _restore_optimizer(self, rows: Tensors) -> None:
        """Restore a new engine's moments and learning rate from the checkpoint. Collective."""
        table = self._engine.module.embeddings
        state = WholeState(table.detach().clone(), rows["exp_avg"], rows["exp_avg_sq"])
        restore_states(
            self._engine, {table: state}, self.progress.step, zero_loss=lambda: (table * 0).sum()
        )


def check_convergence(epoch: int, loss: float, first_loss: float) -> None:
    """Raise TrainingError if the epoch's loss is far above `first_loss`, the first epoch's."""
    if loss > _DIVERGED * first_loss:
        raise TrainingError(
            f"training diverges: the loss of epoch {epoch} is {loss:.4f}, in epoch 1 it was "
            f"{first_loss:.4f}; lower training.learning_rate",
            code="training_diverges",
            key="training.learning_rate",
            saw=loss,
        )


def _last_state(run: str, partition: Partition) -> tuple[GraphProgress, Tensors | None]:
    """Return the last checkpoint's progress and this worker's rows, or None for no checkpoint."""
    with checkpoint_folder() as folder:
        if folder is None:
            return GraphProgress(run), None
        progress = read_progress(GraphProgress, lambda name: (folder / name).read_bytes(), run)
        return progress, read_rows(
            lambda name: safetensors.torch.load_file(folder / name),
            progress.num_parts,
            partition.node_ids,
        )

"""The state of a training run in files: everything it needs to resume.

    run.json      beside the checkpoints: the run they belong to, with its settings and inputs, so
                  that an error can say what differs
    checkpoint    of the adapter, between two optimizer steps:
      progress.json        `AdapterProgress`
      state.safetensors    weight/<name>, exp_avg/<name>, exp_avg_sq/<name> of each trained
                           tensor, whole, float32
      adapter.safetensors  the adapter of the best epoch so far (`Adapters.state_dict`); empty
                           before the first validation
    checkpoint    of the graph, between two epochs:
      progress.json         `GraphProgress`
      rows-<k>.safetensors  nodes (n,) int64; embeddings, exp_avg, exp_avg_sq, best, best_layer0
                            (n, D) float32, one row per node; each worker writes its own file

A checkpoint can be read with another number of workers or ZeRO stage. Random numbers
need no state: the order of batches follows from seed and epoch, and noise follows from seed, step,
and micro-batch (`xrec.train.data.noise_seed`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from xrec.adapter.config import WEIGHTS
from xrec.errors import ArtifactMismatchError

Tensors = dict[str, Tensor]

LossScale = tuple[float, int]
"""The factor of the loss in float16, and the number of steps since one was skipped."""

ReadFile = Callable[[str], bytes]
"""Returns the content of a checkpoint's file, by name."""

_PROGRESS = "progress.json"
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run is, and when it stops early.

    `run` is the fingerprint of its settings and inputs. `step` counts the optimizer steps of all
    epochs. `history` has a row for each finished epoch. `evaluations` are pairs of an epoch and its
    validation loss; a metric such as NDCG counts as a negative loss.
    """

    run: str
    step: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[tuple[int, float], ...] = ()

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""
        return len(self.history) + 1

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest validation loss; 0 before any evaluation."""
        return min(self.evaluations, key=lambda each: each[1], default=(0, 0.0))[0]

    @property
    def evaluations_without_gain(self) -> int:
        """Number of evaluations since the best one."""
        epochs = [epoch for epoch, _ in self.evaluations]
        return len(epochs) - 1 - epochs.index(self.best_epoch) if epochs else 0

    def after_evaluation(self, epoch: int, loss: float) -> Self:
        """Return the progress with the validation loss of an epoch."""
        return replace(self, evaluations=(*self.evaluations, (epoch, loss)))


@dataclass(frozen=True)
class AdapterProgress(Progress):
    """How far an adapter's run is.

    `micro_batch_size` is the chosen size if the config says auto. A step that was skipped and
    repeated counts once. `loss_scale` is set in float16 only. The other fields are of the current
    epoch: its steps, the sums of their losses (nats) and weights, and their time in seconds.
    """

    micro_batch_size: int = 1
    step_in_epoch: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    epoch_seconds: float = 0.0
    loss_scale: LossScale | None = None

    @property
    def train_loss(self) -> float:
        """Mean loss of the current epoch so far, in nats per token."""
        return self.epoch_loss / self.epoch_weight

    def after_step(self, loss: float, weight: float, seconds: float) -> "AdapterProgress":
        """Return the progress after a step, given its global batch's loss (nats) and weight."""
        return replace(
            self,
            step=self.step + 1,
            step_in_epoch=self.step_in_epoch + 1,
            epoch_loss=self.epoch_loss + loss,
            epoch_weight=self.epoch_weight + weight,
            epoch_seconds=self.epoch_seconds + seconds,
        )

    def after_epoch(self, row: Mapping[str, Any]) -> "AdapterProgress":
        """Return the progress after the current epoch; `row` is its row of the history."""
        evaluated = self.after_evaluation(self.epoch, row["validation_loss"])
        return AdapterProgress(
            self.run, self.step, (*self.history, row), evaluated.evaluations, self.micro_batch_size
        )


@dataclass(frozen=True)
class GraphProgress(Progress):
    """How far a graph's run is; `num_parts` is the number of files with rows."""

    num_parts: int = 0

    def after_epoch(self, row: Mapping[str, Any], num_steps: int) -> "GraphProgress":
        """Return the progress after the current epoch, given its row and number of steps."""
        return replace(self, step=self.step + num_steps, history=(*self.history, row))


P = TypeVar("P", bound=Progress)


def read_progress(kind: type[P], read: ReadFile, run: str) -> P:
    """Return a checkpoint's progress; raises ArtifactMismatchError if it is not of run `run`."""
    values: dict[str, Any] = json.loads(read(_PROGRESS))
    if values.get("run") != run:
        raise ArtifactMismatchError(
            f"the checkpoint belongs to run {values.get('run', '(unnamed)')}, but this is run "
            f"{run}: its settings, inputs or version differ; use another output URI, or delete the "
            "checkpoints",
            code="checkpoint_of_another_run",
            saw=values.get("run"),
        )
    evaluations = tuple((epoch, loss) for epoch, loss in values["evaluations"])
    return kind(**{**values, "history": tuple(values["history"]), "evaluations": evaluations})


def progress_file(progress: Progress) -> dict[str, bytes]:
    """Return the name and content of the progress file, which rank 0 writes."""
    return {_PROGRESS: json.dumps(asdict(progress)).encode()}


@dataclass(frozen=True)
class WholeState:
    """A parameter as the optimizer holds it, and Adam's moments, each float32 of its shape."""

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


def adapter_files(trained: Mapping[str, WholeState], best: Tensors) -> dict[str, bytes]:
    """Return the names and contents of an adapter checkpoint's tensor files.

    `trained` is the state of each trained parameter by name, `best` the best epoch's adapter.
    """
    state = {
        f"{kind}/{name}": tensor.cpu().contiguous()
        for name, whole in trained.items()
        for kind, tensor in vars(whole).items()
    }
    return {_STATE: safetensors.torch.save(state), WEIGHTS: safetensors.torch.save(best)}


def read_trained(read: ReadFile) -> dict[str, WholeState]:
    """Return the state of each trained parameter by name."""
    tensors = safetensors.torch.load(read(_STATE))
    kinds = [field.name for field in fields(WholeState)]
    names = [name.removeprefix("weight/") for name in tensors if name.startswith("weight/")]
    return {name: WholeState(*(tensors[f"{kind}/{name}"] for kind in kinds)) for name in names}


def read_best_adapter(read: ReadFile) -> Tensors:
    """Return the best epoch's adapter; empty before the first validation."""
    tensors: Tensors = safetensors.torch.load(read(WEIGHTS))
    return tensors


ROWS = ("embeddings", "exp_avg", "exp_avg_sq", "best", "best_layer0")
"""The graph's state by node, each (n, D) float32.

These are the layer-0 embeddings, Adam's moments of them, and the vectors and layer-0 embeddings of
the best epoch.
"""

_ROWS_PER_COPY = 65_536


def rows_file(part: int, nodes: Tensor, rows: Tensors) -> dict[str, bytes]:
    """Return name and content of file `part` with the `ROWS` of `nodes` (n,) int64.

    Rows of node -1, which pad a block, are left out.
    """
    kept = nodes >= 0
    tensors = {name: rows[name].detach().cpu()[kept].contiguous() for name in ROWS}
    content = safetensors.torch.save({"nodes": nodes[kept].contiguous(), **tensors})
    return {_rows_name(part): bytes(content)}


def read_rows(
    load: Callable[[str], Tensors],
    num_parts: int,
    nodes: Tensor,
    names: Sequence[str] = ROWS,
    zeros: Callable[[str, tuple[int, int]], Tensor] = lambda _, shape: torch.zeros(shape),
) -> Tensors:
    """Return the named tensors' rows of `nodes` (n,) int64; zeros for node -1.

    `load` maps the tensors of a file, so that only these rows come into memory. The `num_parts`
    files are read in turn. `zeros` allocates a table from a name and a shape. Raises
    ArtifactMismatchError if a node is in none of the files.
    """
    tables: Tensors = {}
    missing = nodes >= 0
    for part in range(num_parts):
        tensors = load(_rows_name(part))
        stored = tensors["nodes"]  # ascending
        positions = torch.searchsorted(stored, nodes).clamp(max=len(stored) - 1)
        rows = (stored[positions] == nodes).nonzero().flatten()
        missing[rows] = False
        for name in names:
            if part == 0:
                tables[name] = zeros(name, (len(nodes), tensors[name].shape[1]))
            for some in rows.split(_ROWS_PER_COPY):
                tables[name][some] = tensors[name][positions[some]]
    if bool(missing.any()):
        raise ArtifactMismatchError(
            f"the checkpoint lacks the rows of {int(missing.sum())} of {len(nodes)} nodes; "
            "delete the checkpoints to start over",
            code="checkpoint_lacks_rows",
            saw=int(missing.sum()),
        )
    return tables


def _rows_name(part: int) -> str:
    return f"rows-{part:05d}.safetensors"

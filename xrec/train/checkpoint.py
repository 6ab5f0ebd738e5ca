"""The state of a training run in files: all that it needs to go on after a stop.

    run.json      beside the checkpoints: whose they are, with all settings and inputs, so that a
                  refusal can name what differs
    checkpoint    of the adapter, between two optimizer steps:
      progress.json        `AdapterProgress`
      state.safetensors    weight/<name>, exp_avg/<name>, exp_avg_sq/<name> of each trained
                           tensor, whole, float32
      adapter.safetensors  the adapter of the best epoch so far (`Adapters.state_dict`); without
                           tensors before the first validation
    checkpoint    of the graph, between two epochs:
      progress.json         `GraphProgress`
      rows-<k>.safetensors  nodes (n,) int64; embeddings, exp_avg, exp_avg_sq, best, best_layer0:
                            (n, D) float32, a row for each of the nodes; each worker writes its own

A checkpoint can be read by another number of workers, at another ZeRO stage or in the other mode.
Random numbers need no state: the order of batches follows from seed and epoch, and noise follows
from seed, step and micro-batch (`xrec.train.data.noise_seed`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from xrec.adapter.config import WEIGHTS
from xrec.errors import ArtifactMismatchError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tensors = dict[str, Tensor]

LossScale = tuple[float, int]
"""What the loss is multiplied by in float16, and the steps since one was skipped."""

ReadFile = Callable[[str], bytes]
"""Returns the content of a checkpoint's file, by name."""

_PROGRESS = "progress.json"
_STATE = "state.safetensors"


@dataclass(frozen=True)
class AdapterProgress:
    """How far an adapter's run is.

    `run` is the fingerprint of its settings and inputs, and `micro_batch_size` is what a size of
    auto became. `step` counts the optimizer steps of all epochs; a step that was skipped and made
    again counts once. `loss_scale` is there in float16 only. `history` has a row for each finished
    epoch, with its `validation_loss`. The other fields are of the present epoch: the steps done,
    the sum of their NLL in nats, the number of tokens that it is of, and their time in seconds.
    """

    run: str
    micro_batch_size: int
    step: int = 0
    step_in_epoch: int = 0
    epoch_nll: float = 0.0
    epoch_tokens: float = 0.0
    epoch_seconds: float = 0.0
    history: tuple[Mapping[str, Any], ...] = ()
    loss_scale: LossScale | None = None

    @property
    def epoch(self) -> int:
        """The present epoch, from 1."""
        return len(self.history) + 1

    @property
    def train_loss(self) -> float:
        """Mean NLL of the present epoch so far, in nats a token."""
        return self.epoch_nll / self.epoch_tokens

    @property
    def best(self) -> Mapping[str, Any]:
        """The row of the epoch with the lowest validation loss; of several, the first."""
        return min(self.history, key=lambda row: float(row["validation_loss"]))

    @property
    def evaluations_without_gain(self) -> int:
        """Number of epochs since the best one."""
        return len(self.history) - 1 - self.history.index(self.best) if self.history else 0

    def after_step(self, nll: float, num_tokens: float, seconds: float) -> "AdapterProgress":
        """Return the progress after a step: NLL (nats) and tokens of its global batch, its time."""
        return replace(
            self,
            step=self.step + 1,
            step_in_epoch=self.step_in_epoch + 1,
            epoch_nll=self.epoch_nll + nll,
            epoch_tokens=self.epoch_tokens + num_tokens,
            epoch_seconds=self.epoch_seconds + seconds,
        )

    def after_epoch(self, row: Mapping[str, Any]) -> "AdapterProgress":
        """Return the progress when the present epoch is done; `row` is its row of the history."""
        return AdapterProgress(
            self.run, self.micro_batch_size, step=self.step, history=(*self.history, row)
        )


@dataclass(frozen=True)
class GraphProgress:
    """How far a graph's run is.

    `run` is the fingerprint of its settings and dataset, `num_parts` the number of files with rows.
    """

    run: str
    num_parts: int = 0
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    evaluations_without_gain: int = 0
    history: tuple[Mapping[str, Any], ...] = ()

    def after_epoch(self, row: Mapping[str, Any], step: int) -> "GraphProgress":
        """Return the progress after an epoch that ended at optimizer step `step`.

        `row` is its row of the history and has `epoch`.
        """
        return replace(self, epoch=row["epoch"], step=step, history=(*self.history, row))

    def after_evaluation(self, score: float) -> "GraphProgress":
        """Return the progress with the validation score of the last epoch."""
        if score > self.best_score:
            return replace(
                self, best_epoch=self.epoch, best_score=score, evaluations_without_gain=0
            )
        return replace(self, evaluations_without_gain=self.evaluations_without_gain + 1)


P = TypeVar("P")


def read_progress(kind: Callable[..., P], read: ReadFile, run: str) -> P:
    """Return how far the checkpoint is; raises ArtifactMismatchError if it is not of run `run`.

    `kind` is a dataclass whose fields have `run` and `history` among them.
    """
    values: dict[str, Any] = json.loads(read(_PROGRESS))
    if values.get("run") != run:
        raise ArtifactMismatchError(
            f"the checkpoint is of run {values.get('run', '(not named)')}, this is run {run}: its "
            "settings, its inputs or its version differ; give another output URI, or delete the "
            "checkpoints",
            code="checkpoint_of_another_run",
            saw=values.get("run"),
        )
    return kind(**{**values, "history": tuple(values["history"])})


def progress_file(progress: "DataclassInstance") -> dict[str, bytes]:
    """Return name and content of the file, which rank 0 writes."""
    return {_PROGRESS: json.dumps(asdict(progress)).encode()}


def tensors_below(tensors: Tensors, folder: str) -> Tensors:
    """Return the tensors whose names begin with `folder`/, without it."""
    return {
        name.removeprefix(f"{folder}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{folder}/")
    }


@dataclass(frozen=True)
class WholeState:
    """A parameter as the optimizer holds it, and Adam's first and second moment.

    All are float32 and of the parameter's shape.
    """

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


def adapter_files(trained: Mapping[str, WholeState], best: Tensors) -> dict[str, bytes]:
    """Return names and contents of the files of an adapter's checkpoint beside the progress.

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
    kinds = {field.name: tensors_below(tensors, field.name) for field in fields(WholeState)}
    return {
        name: WholeState(**{kind: of_kind[name] for kind, of_kind in kinds.items()})
        for name in kinds["weight"]
    }


def read_best_adapter(read: ReadFile) -> Tensors:
    """Return the best epoch's adapter; without tensors before the first validation."""
    tensors: Tensors = safetensors.torch.load(read(WEIGHTS))
    return tensors


ROWS = ("embeddings", "exp_avg", "exp_avg_sq", "best", "best_layer0")
"""The graph's state by node, each (n, D) float32.

These are the layer-0 embeddings, Adam's moments of them, and of the best epoch the vectors and the
layer-0 embeddings.
"""


_ROWS_AT_A_TIME = 65_536  # are copied


def rows_file(part: int, nodes: Tensor, rows: Tensors) -> dict[str, bytes]:
    """Return name and content of file `part` with the `ROWS` of `nodes` (n,) int64.

    Rows of node -1, which fill a block up, are left out.
    """
    there = nodes >= 0
    tensors = {name: rows[name].detach().cpu()[there].contiguous() for name in ROWS}
    content = safetensors.torch.save({"nodes": nodes[there].contiguous(), **tensors})
    return {_rows_name(part): bytes(content)}


def read_rows(
    load: Callable[[str], Tensors],
    num_parts: int,
    nodes: Tensor,
    names: Sequence[str] = ROWS,
    zeros: Callable[[str, tuple[int, int]], Tensor] = lambda _, shape: torch.zeros(shape),
) -> Tensors:
    """Return the named tensors' rows of `nodes` (n,) int64; zeros for node -1.

    `load` gives the tensors of a file; of those that it maps only these rows come into memory. The
    `num_parts` files are read one after the other. `zeros` makes a table of a name and a shape.
    Raises ArtifactMismatchError if a node is in none of them.
    """
    picked: Tensors = {}
    missing = nodes >= 0
    for part in range(num_parts):
        tensors = load(_rows_name(part))
        there = tensors["nodes"]  # ascending
        places = torch.searchsorted(there, nodes).clamp(max=len(there) - 1)
        rows = (there[places] == nodes).nonzero().flatten()
        missing[rows] = False
        for name in names:
            if part == 0:
                picked[name] = zeros(name, (len(nodes), tensors[name].shape[1]))
            for some in rows.split(_ROWS_AT_A_TIME):
                picked[name][some] = tensors[name][places[some]]
    if bool(missing.any()):
        raise ArtifactMismatchError(
            f"the checkpoint lacks the rows of {int(missing.sum())} of {len(nodes)} nodes; "
            "delete the checkpoints to start again",
            code="checkpoint_lacks_rows",
            saw=int(missing.sum()),
        )
    return picked


def _rows_name(part: int) -> str:
    return f"rows-{part:05d}.safetensors"

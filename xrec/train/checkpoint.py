"""The state of a training run in files: all that it needs to go on after a stop.

    run.json      beside the checkpoints: whose they are, with all settings and inputs, so that a
                  refusal can name what differs
    checkpoint    of the adapter, between two optimizer steps:
      progress.json        `AdapterProgress`
      state.safetensors    parameter/<name>, exp_avg/<name>, exp_avg_sq/<name> of each trained
                           tensor, whole, float32
      adapter.safetensors  the adapter of the best epoch so far (`Adapters.state_dict`); without
                           tensors before the first validation
    checkpoint    of the graph, between two epochs:
      progress.json         `GraphProgress`
      rows-<k>.safetensors  nodes (n,) int64; embeddings, exp_avg, exp_avg_sq, best: (n, D) float32,
                            a row for each of the nodes; each worker writes its own file

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

from xrec.adapter.artifact import WEIGHTS
from xrec.errors import ArtifactMismatchError
from xrec.storage import Kind, Location, is_begun, run_fingerprint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tensors = dict[str, Tensor]

ReadFile = Callable[[str], bytes]
"""Returns the content of a checkpoint's file, by name."""

_RUN = "run.json"
_PROGRESS = "progress.json"
_STATE = "state.safetensors"


def claim(
    checkpoints: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> bool:
    """Make the folder of checkpoints this run's; return whether it was this run's before.

    `config` and `inputs` are what `write_manifest` takes. Raises ArtifactMismatchError if the
    folder is another run's, and names each field that differs with both values.
    """
    if is_begun(checkpoints, _RUN, kind, config, inputs):
        return True
    record = {
        "run": run_fingerprint(kind, config, inputs),
        "config": dict(config),
        "inputs": dict(inputs),
    }
    (checkpoints / _RUN).write_bytes(json.dumps(record, indent=1).encode())
    return False


@dataclass(frozen=True)
class AdapterProgress:
    """How far an adapter's run is.

    `run` is the fingerprint of its settings and inputs, and `micro_batch_size` is what a size of
    auto became. `step` counts the optimizer steps of all epochs; a step that was skipped and made
    again counts once. `loss_scale` and `steps_since_overflow` are those of
    `xrec.train.loss_scale.LossScale`, in float16 only. `history` has a row for each finished epoch,
    with its `validation_loss`. The other fields are of the present epoch: the steps done, the sum
    of their NLL in nats, their number of tokens, and their time in seconds.
    """

    run: str
    step: int = 0
    step_in_epoch: int = 0
    epoch_nll: float = 0.0
    epoch_tokens: float = 0.0
    epoch_seconds: float = 0.0
    history: tuple[Mapping[str, Any], ...] = ()
    micro_batch_size: int | None = None
    loss_scale: float | None = None
    steps_since_overflow: int | None = None

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
            self.run,
            step=self.step,
            history=(*self.history, row),
            micro_batch_size=self.micro_batch_size,
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
            "checkpoints"
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
class TrainedTensors:
    """Weights and Adam's first and second moment of each trained tensor, by name, float32."""

    parameter: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors


def adapter_files(trained: TrainedTensors, best: Tensors) -> dict[str, bytes]:
    """Return names and contents of the files of an adapter's checkpoint beside the progress."""
    state = {
        f"{kind}/{name}": tensor.cpu().contiguous()
        for kind, tensors in vars(trained).items()
        for name, tensor in tensors.items()
    }
    return {_STATE: safetensors.torch.save(state), WEIGHTS: safetensors.torch.save(best)}


def read_trained(read: ReadFile) -> TrainedTensors:
    """Return the tensors that the adapter's training goes on with."""
    kinds: dict[str, Tensors] = {"parameter": {}, "exp_avg": {}, "exp_avg_sq": {}}
    for key, tensor in safetensors.torch.load(read(_STATE)).items():
        kind, name = key.split("/")
        kinds[kind][name] = tensor
    return TrainedTensors(**kinds)


def read_best_adapter(read: ReadFile) -> Tensors:
    """Return the best epoch's adapter; without tensors before the first validation."""
    tensors: Tensors = safetensors.torch.load(read(WEIGHTS))
    return tensors


@dataclass(frozen=True)
class GraphRows:
    """The graph's state by node, each (n, D) float32.

    These are the layer-0 embeddings, Adam's moments of them, and the vectors of the best epoch.
    """

    embeddings: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    best: Tensor


def rows_file(part: int, nodes: Tensor, rows: GraphRows) -> dict[str, bytes]:
    """Return name and content of file `part` with the rows of `nodes` (n,) int64.

    Rows of node -1, which fill a block up, are left out.
    """
    there = nodes >= 0
    tensors = {
        name: tensor.detach().cpu()[there].contiguous() for name, tensor in vars(rows).items()
    }
    content = safetensors.torch.save({"nodes": nodes[there].contiguous(), **tensors})
    return {_rows_name(part): bytes(content)}


def read_rows(read: ReadFile, num_parts: int, nodes: Tensor) -> GraphRows:
    """Return the rows of `nodes` (n,) int64 from all `num_parts` files; zeros for node -1.

    Raises ArtifactMismatchError if a node is in none of the files.
    """
    return GraphRows(**_pick(read, num_parts, nodes, [field.name for field in fields(GraphRows)]))


def read_best_vectors(read: ReadFile, num_parts: int, num_nodes: int) -> Tensor:
    """Return the best epoch's vectors of all nodes (N, D) float32."""
    return _pick(read, num_parts, torch.arange(num_nodes), ["best"])["best"]


def _pick(read: ReadFile, num_parts: int, nodes: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the rows of `nodes` of the named tensors; one file at a time is in memory."""
    picked: dict[str, Tensor] = {}
    missing = nodes >= 0
    for part in range(num_parts):
        tensors = safetensors.torch.load(read(_rows_name(part)))
        rows, columns = _matches(nodes, tensors["nodes"])
        missing[rows] = False
        for name in names:
            rows_of_all = picked.setdefault(
                name, tensors[name].new_zeros(len(nodes), tensors[name].shape[1])
            )
            rows_of_all[rows] = tensors[name][columns]
    if bool(missing.any()):
        raise ArtifactMismatchError(
            f"the checkpoint lacks the rows of {int(missing.sum())} of {len(nodes)} nodes; "
            "delete the checkpoints to start again"
        )
    return picked


def _matches(wanted: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions in `wanted` and in `there` (ascending) of the nodes that are in both."""
    places = torch.searchsorted(there, wanted).clamp(max=len(there) - 1)
    rows = (there[places] == wanted).nonzero().flatten()
    return rows, places[rows]


def _rows_name(part: int) -> str:
    return f"rows-{part:05d}.safetensors"

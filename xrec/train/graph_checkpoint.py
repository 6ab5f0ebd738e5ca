"""The state of a graph training between two epochs: all that a run needs to go on, on any number of workers, in either mode.

    progress.json         which run, how far, what is best so far, the history
    rows-<k>.safetensors  nodes (n,) int64; embeddings, exp_avg, exp_avg_sq, best: (n, D) float32, a row for each of the nodes

Rows go by node, so another number of workers only picks other rows. Ray Train commits the files of all workers as one checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xrec.errors import ArtifactMismatchError
from xrec.train.checkpoint import PROGRESS, ReadFile, progress_values


@dataclass(frozen=True)
class Progress:
    """How far a run is; `run` is the fingerprint of its settings and dataset, `num_parts` the number of files with rows."""

    run: str
    num_parts: int = 0
    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    evaluations_without_gain: int = 0
    history: tuple[Mapping[str, Any], ...] = ()

    def after_epoch(self, row: Mapping[str, Any], step: int) -> "Progress":
        """One epoch on, at optimizer step `step`; `row` is the epoch's line in the history and holds `epoch`."""
        return replace(self, epoch=row["epoch"], step=step, history=(*self.history, row))

    def after_evaluation(self, score: float) -> "Progress":
        """With the present epoch's validation score counted."""
        if score > self.best_score:
            return replace(
                self, best_epoch=self.epoch, best_score=score, evaluations_without_gain=0
            )
        return replace(self, evaluations_without_gain=self.evaluations_without_gain + 1)


@dataclass(frozen=True)
class Rows:
    """What training keeps of each node: layer-0 embeddings, Adam's moments, vectors of the best epoch; (n, D) float32 each."""

    embeddings: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    best: Tensor


def progress_file(progress: Progress) -> dict[str, bytes]:
    """Name and content of the file that one worker writes."""
    return {PROGRESS: json.dumps(asdict(progress)).encode()}


def rows_file(part: int, nodes: Tensor, rows: Rows) -> dict[str, bytes]:
    """Name and content of file `part`: the rows of `nodes` (n,) int64, without those of node -1."""
    there = nodes >= 0
    tensors = {
        name: tensor.detach().cpu()[there].contiguous() for name, tensor in vars(rows).items()
    }
    return {
        _rows_name(part): bytes(
            safetensors.torch.save({"nodes": nodes[there].contiguous(), **tensors})
        )
    }


def read_progress(read: ReadFile, run: str) -> Progress:
    """How far the checkpoint is; raises ArtifactMismatchError if it is of another run than `run`."""
    values = progress_values(read, run)
    return Progress(**{**values, "history": tuple(values["history"])})


def read_rows(read: ReadFile, num_parts: int, nodes: Tensor) -> Rows:
    """The rows of `nodes` (n,) int64 from all `num_parts` files; zero for node -1."""
    return Rows(**_pick(read, num_parts, nodes, [field.name for field in fields(Rows)]))


def read_best(read: ReadFile, num_parts: int, num_nodes: int) -> Tensor:
    """The best epoch's vectors of all nodes (N, D) float32."""
    return _pick(read, num_parts, torch.arange(num_nodes), ["best"])["best"]


def _pick(read: ReadFile, num_parts: int, nodes: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The rows of `nodes` of the named tensors; one file at a time is held."""
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
            f"the checkpoint lacks the rows of {int(missing.sum())} of {len(nodes)} nodes; delete the checkpoints to start again"
        )
    return picked


def _matches(wanted: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in `wanted` and in `there` (ascending) of what is in both."""
    places = torch.searchsorted(there, wanted).clamp(max=len(there) - 1)
    rows = (there[places] == wanted).nonzero().flatten()
    return rows, places[rows]


def _rows_name(part: int) -> str:
    return f"rows-{part:05d}.safetensors"

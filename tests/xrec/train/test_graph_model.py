"""The validation users of the graph's workers, and what a worker of a partitioned graph holds."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.fake_gpu import CPU
from tests.xrec.train.one_gpu_worker import become_worker
from xrec.config.graph import GraphTrainingConfig
from xrec.data.dataset import read_dataset
from xrec.graph.adjacency import distinct_edges
from xrec.graph.aspects import AspectEdges
from xrec.graph.partition import Partition
from xrec.graph.ranking import SeenItems, metrics_of, top_k_items
from xrec.storage import mapped_arrays, node_folder, open_location
from xrec.train.graph_model import GraphData, HeldOut, K, split_edges
from xrec.train.graph_worker import GraphWorker


def test_held_out_of_drawn_users_ranks_them_as_among_all(town):
    dataset = read_dataset(open_location(f"{town}/dataset"))
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(number, 4, generator=generator)
        for number in (dataset.num_users, dataset.num_items)
    )
    data = GraphData.of(dataset, with_aspects=False)
    held_out = HeldOut.of(dataset, data, GraphTrainingConfig(validation_users=11, seed=3))
    assert len(held_out.users) == 11
    seen, wanted = (SeenItems(split_edges(dataset, split)) for split in ("train", "validation"))
    ranked = top_k_items(users, items, seen, held_out.users, K)
    expected, _ = metrics_of(ranked, wanted, dataset.num_items, (K,))
    sizes = dataset.num_users, dataset.num_items
    assert held_out.score(torch.cat([users, items]), Partition.whole(sum(sizes)), sizes) == expected
    parts = [held_out.part(number, 3).users for number in range(3)]
    assert torch.equal(torch.cat(parts), held_out.users)
    everybody = HeldOut.of(dataset, data, GraphTrainingConfig())
    assert set(everybody.users.tolist()) == set(dataset.interaction_edges("validation")[0].tolist())


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the floating-point tensors that torch's operations make and that live.

    Or of those tensors of which `is_counted` is true.
    """

    def __init__(self, is_counted: Callable[[Tensor], bool] = Tensor.is_floating_point) -> None:
        super().__init__()
        self._living, self.now, self.peak = set[int](), 0, 0
        self._is_counted = is_counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage(), self._is_counted(tensor))
        return result

    def _count(self, storage: Any, is_counted: bool) -> None:
        if is_counted and id(storage) not in self._living:
            self._living.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, storage: int, num_bytes: int) -> None:
        self._living.discard(storage)
        self.now -= num_bytes

    def lap(self) -> int:
        """Return the peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak


class InMemory:
    """Whether a tensor is of indices, and not in a file of this node that is mapped."""

    def __init__(self) -> None:
        self._files: list[tuple[int, int]] = []

    def __call__(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        if tensor.dtype not in (torch.int32, torch.int64) or storage.nbytes() < 20_000:
            return False
        address = storage.data_ptr()
        if not self._has(address):
            lines = Path("/proc/self/maps").read_text().splitlines()
            ours = [line.split()[0].split("-") for line in lines if str(node_folder()) in line]
            self._files = [(int(first, 16), int(stop, 16)) for first, stop in ours]
        return not self._has(address)

    def _has(self, address: int) -> bool:
        return any(first <= address < stop for first, stop in self._files)


NUM_USERS, NUM_ITEMS, NUM_ASPECTS, DIM = 9000, 6000, 200, 16


def random_graph() -> tuple[GraphData, HeldOut]:
    """Return interactions and aspects of everybody, and one held-out item of 50 users."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int, size: int) -> Tensor:
        return torch.randint(most, (size,), generator=generator)

    edges = distinct_edges(
        torch.stack([draw(NUM_USERS, 15_000), draw(NUM_ITEMS, 15_000)]), NUM_ITEMS
    )
    nodes = torch.arange(NUM_USERS + NUM_ITEMS)
    said = AspectEdges(nodes, draw(NUM_ASPECTS, len(nodes)), torch.ones(len(nodes)), NUM_ASPECTS)
    held_out = torch.stack([torch.arange(0, NUM_USERS, 180), draw(NUM_ITEMS, 50)])
    validation = HeldOut(SeenItems(edges), SeenItems(held_out), held_out[0])
    return GraphData(edges, NUM_USERS, NUM_ITEMS, said), validation


def test_what_a_partitioned_worker_holds_at_its_peaks_falls_with_the_number_of_workers(
    make_graph_config, tmp_path, monkeypatch
):
    """Counted on the first of W workers; the graph's tables outweigh what does not fall."""
    monkeypatch.setattr("xrec.graph.partition._NODES_PER_DRAW", 100)
    monkeypatch.setattr("xrec.graph.ranking._SCORES_PER_CHUNK", 20_000)
    peaks: dict[int, list[int]] = {}
    for num_workers in (1, 2, 4, 8):
        become_worker(monkeypatch, tmp_path / str(num_workers), CPU, num_workers)
        config = make_graph_config(
            tmp_path,
            num_workers,
            "partitioned",
            model={"embedding_dim": DIM, "aspects": True},
            loss={"kind": "sampled_softmax", "num_negatives": 16},
        )
        data, validation = random_graph()
        with PeakBytes() as counted:
            worker = GraphWorker(config, data, "run")
            at_start = counted.lap()
            worker.train_epoch(1)
            in_steps = counted.lap()
            worker._evaluate(validation)
            in_evaluation = counted.lap()
            worker.progress = replace(worker.progress, step=4)
            worker._checkpoint()
            peaks[num_workers] = [at_start, in_steps, in_evaluation, counted.lap()]
        del worker
    table = (NUM_USERS + NUM_ITEMS + NUM_ASPECTS) * DIM * 4
    assert min(peaks[1]) > 5 * table
    for num_workers in (2, 4, 8):
        shares = [each * num_workers for each in peaks[num_workers]]
        assert shares == [pytest.approx(alone, rel=0.2) for alone in peaks[1]]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", ["bpr", "sampled_softmax"])
def test_worker_whose_edges_are_files_holds_none_and_has_the_losses_of_one_that_does(
    kind, num_workers, make_graph_config, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    monkeypatch.setattr("xrec.graph.adjacency._EDGES_PER_PIECE", 500)
    become_worker(monkeypatch, tmp_path / "meeting", CPU, num_workers)
    dense = torch.rand(300, 200, generator=torch.Generator().manual_seed(0)) < 0.5
    edges = dense.nonzero().T.contiguous()
    config = make_graph_config(
        tmp_path,
        num_workers,
        "partitioned",
        model={"embedding_dim": 4},
        loss={"kind": kind},
        steps_per_epoch=16,
        micro_batch_size=1000,
    )
    file = torch.from_numpy(mapped_arrays("e.edges", lambda: {"edges": edges.numpy()})["edges"])
    expected = GraphWorker(config, GraphData(edges, 300, 200), "run").train_epoch(1)
    data = GraphData(file, 300, 200, name="e")
    with PeakBytes(InMemory()) as counted:
        worker = GraphWorker(config, data, "run")
        assert worker.train_epoch(1) == expected
    assert counted.peak < edges.nbytes / 4
    assert InMemory()(edges)
    assert not InMemory()(worker._adjacency.values().view(torch.int32))
    data.delete_files()
    assert {path.suffix for path in tmp_path.glob("node/*/*/*")} == {".lock"}

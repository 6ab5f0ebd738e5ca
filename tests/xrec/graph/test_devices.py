"""Ranking where the vectors are on a GPU that is not there (tests/fake_gpu.py)."""

import torch

from tests.fake_gpu import CPU, GPU, FakeGPU
from xrec.graph import SeenItems, ranking_metrics


def test_ranking_metrics_of_vectors_on_a_gpu_are_those_of_a_cpu() -> None:
    def metrics(device: torch.device) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        users = torch.randn(30, 4, generator=generator)
        items = torch.randn(20, 4, generator=generator)
        items[3] = items[4]  # a tie
        edges = torch.stack([torch.arange(60) % 30, (torch.arange(60) * 7) % 20])
        seen, held_out = SeenItems(edges[:, :40], 30), SeenItems(edges[:, 40:], 30)
        evaluated = edges[0, 40:].unique()
        return ranking_metrics(
            users.to(device), items.to(device), seen, held_out, evaluated, (5, 10)
        )

    expected = metrics(CPU)
    with FakeGPU():
        assert metrics(GPU) == expected

"""The validation users of the graph's workers."""

import torch

from xrec.config.graph import GraphTrainingConfig
from xrec.data.dataset import read_dataset
from xrec.graph.ranking import SeenItems, ranking_metrics
from xrec.storage import open_location
from xrec.train.graph_model import HeldOut, K, split_edges


def test_held_out_of_drawn_users_ranks_them_as_among_all(town):
    dataset = read_dataset(open_location(f"{town}/dataset"))
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(number, 4, generator=generator)
        for number in (dataset.num_users, dataset.num_items)
    )
    held_out = HeldOut.of(dataset, "validation", GraphTrainingConfig(validation_users=11, seed=3))
    assert len(held_out.users) == 11
    seen, wanted = (SeenItems(split_edges(dataset, split)) for split in ("train", "validation"))
    expected = ranking_metrics(users, items, seen, wanted, held_out.users, (K,))
    assert held_out.score(users, items) == expected
    parts = [held_out.part(number, 3).users for number in range(3)]
    assert torch.equal(torch.cat(parts), held_out.users)
    everybody = HeldOut.of(dataset, "validation", GraphTrainingConfig())
    assert set(everybody.users.tolist()) == set(dataset.interaction_edges("validation")[0].tolist())

"""The dataset and the graph with new users and items: known rows unchanged, new ones at the end."""

from dataclasses import replace

import torch

from xrec.data.cold_start import ColdStartTables
from xrec.data.dataset import Dataset
from xrec.data.extension import extend_dataset
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn


def extend_with_new(
    dataset: Dataset, graph: GraphEmbeddings, tables: ColdStartTables
) -> tuple[Dataset, GraphEmbeddings]:
    """Return dataset and graph with the users and items of `tables` appended.

    Their vectors come from `FoldIn`. If `tables` has nothing usable, the rows stay as they are. The
    new interactions are among the train edges of the returned dataset, so that a ranking leaves out
    a new user's history. Both keep their manifests; `tables.fingerprint` distinguishes artifacts
    that were made from them. Raises DataError if a vector of the graph is not finite.
    """
    extension = extend_dataset(dataset, tables)
    user_edges, item_edges = (
        torch.from_numpy(extension.user_edges),
        torch.from_numpy(extension.item_edges),
    )
    if user_edges.shape[1] + item_edges.shape[1] == 0:
        return extension.dataset, graph
    fold_in = FoldIn.fit(
        graph.users, graph.items, torch.from_numpy(dataset.interaction_edges("train"))
    )
    users, items = graph.users, graph.items
    if user_edges.shape[1]:
        users = torch.cat([users, fold_in.users(user_edges).to(users.dtype)])
    if item_edges.shape[1]:
        items = torch.cat([items, fold_in.items(item_edges).to(items.dtype)])
    return extension.dataset, replace(graph, users=users, items=items)

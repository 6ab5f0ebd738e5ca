"""The dataset and graph that later stages see when there are new users and items: the known rows unchanged, folded-in ones at the end."""

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
    """Dataset and graph with the users and items of `tables` appended, their vectors by fold-in (`FoldIn`).

    New interactions are among the train edges of the dataset returned, so that top-k leaves a new user's history out. Both
    keep their manifests: artifacts made from them are told apart by `tables.fingerprint`. Nothing usable in `tables`: both
    come back with the same rows. Raises DataError for a graph that is not finite.
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

"""Top-k recommendation in bulk: the best unseen items of each user, as a table.

It is a bulk run (xrec.bulk) whose rows are users; the table has a row for each of a user's items.
A backfill can take its pairs from here. What stands first is the run: what it depends on, its plan,
its work, its publishing; then what an actor does with some users, and the rows of a table that is
published. Torch and Ray are imported by what ranks, since a status needs neither.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk import (
    FEW_AT_ONCE,
    BulkRun,
    DriveOptions,
    Identity,
    Outcome,
    RowFormat,
    RunRequest,
    Summary,
    Survey,
    clean_keys,
    complete,
    has_work,
    open_run,
    publish,
    published,
)
from xrec.config import RecommendConfig, StorageConfig, identity_of
from xrec.data.dataset import Dataset, taken
from xrec.errors import ClusterError, ConfigError, install_command
from xrec.graph.identity import check_graph_of_dataset
from xrec.progress import counter
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import Kind, Manifest, fingerprint_of, manifest_of, storage_errors

if TYPE_CHECKING:
    import torch

    from xrec.bulk import Pool
    from xrec.graph.artifact import GraphEmbeddings
    from xrec.graph.index import ItemIndex

KIND: Kind = "recommendations"
ALL_SEEN = "all_items_seen"

ROWS = RowFormat(
    keys=("user_id",),
    ok=pa.schema(
        [
            pa.field("item_id", pa.string(), metadata={"comment": "an item the user has not seen"}),
            pa.field("rank", pa.int32(), metadata={"comment": "1 is the user's best item"}),
            pa.field(
                "score",
                pa.float32(),
                metadata={"comment": "dot product of the user's and the item's vector"},
            ),
        ]
    ),
    ok_keys=("rank",),
    failed=pa.schema([]),
    reasons=(ALL_SEEN,),
)
"""A user has a row of `status=ok` for each recommended item, or one failed row.

Rows, and not a list of items in one row, because every reader can filter, join and export them.
"""


_USERS_AT_ONCE = 2**16
USERS_PER_CHUNK = 8192
_MOST_COMPARED = 1000  # users
_COMPARED, _RECALL = "compared_users", "sum_of_recalls"
_LOST = ROWS.error_reason
"""Why users failed with whom processes died; the next start tries them again."""


def read_tables(config: RecommendConfig) -> tuple[Dataset, "GraphEmbeddings"]:
    """Read dataset and graph.

    Raises ArtifactNotFoundError if dataset or graph is missing, ArtifactMismatchError if the graph
    is of another dataset, DataError if a vector is not finite, UnknownIdError for a user who is not
    in the dataset.
    """
    from xrec.graph.artifact import read_dataset_and_graph

    dataset, graph = read_dataset_and_graph(config)
    graph.check_finite()
    for user_id in config.user_ids or ():
        dataset.user_index(user_id)
    return dataset, graph


def identify_recommendations(
    config: RecommendConfig, find_spec: Callable[[str], object] = importlib.util.find_spec
) -> Identity:
    """The run that `config` asks for; reads manifests only.

    Raises ArtifactNotFoundError without dataset or graph, ArtifactMismatchError if the graph is of
    another dataset, ConfigError if k is more than there are items or user_ids is empty, or if the
    index's package is not installed.
    """
    if config.index == "hnsw" and find_spec("faiss") is None:
        raise ConfigError(
            "index=hnsw needs faiss, which is not installed; "
            f"run: {install_command('index')}, or set index=exact",
            code="package_missing",
            key="index",
            saw=config.index,
        )
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    num_items = graph.row_counts["items"]
    if config.k > num_items:
        raise ConfigError(
            f"k = {config.k}, but the dataset has {num_items} items; lower k",
            code="too_large",
            key="k",
            saw=config.k,
        )
    if config.user_ids is not None and not config.user_ids:
        raise ConfigError(
            "user_ids is an empty list; name users, or leave it out for all",
            code="empty_list",
            key="user_ids",
        )
    user_ids = None if config.user_ids is None else sorted(set(config.user_ids))
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint}
    settings = {**identity_of(config), "user_ids": user_ids}
    return Identity(kind=KIND, config=settings, inputs=inputs)


def plan_recommendations(
    config: RecommendConfig, dataset: Dataset, *, users_per_chunk: int = USERS_PER_CHUNK
) -> BulkRun:
    """Plan the run that `config` asks for, or open it if it was planned before.

    Raises TableError if the output holds other files, those of an older xrec for instance; and what
    `identify_recommendations` raises.
    """
    return open_run(
        RunRequest(
            config.artifact(KIND),
            identify_recommendations(config),
            ROWS,
            lambda: _users(config, dataset),  # they follow from the identity
            rows_per_chunk=users_per_chunk,
            storage=config.storage,
        )
    )


def _users(config: RecommendConfig, dataset: Dataset) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the users to rank for, and rejected ones: ids that are no text; many at a time."""
    known, file = dataset.users.select(["user_id"]), config.artifact("dataset")
    table = known if config.user_ids is None else pa.table({"user_id": list(config.user_ids)})
    for batch in table.to_batches(max_chunksize=_USERS_AT_ONCE):
        rows = pa.Table.from_batches([batch]).filter(pc.field("user_id") != "")
        yield clean_keys(rows, ROWS.keys, file=file, first_line=1)


def run_recommend(config: RecommendConfig, run: BulkRun, pool: "Pool | None" = None) -> Manifest:
    """Rank the users that are left, publish the table, and return its manifest.

    The default pool has an actor for each CPU of the cluster, for which Ray must be initialised.
    Raises LeaseError if another driver is at work, ClusterError if processes died with users, and
    what `publish` raises. What is done stays, and the next call goes on from there.
    """
    num_users, is_lost = run.record.num_rows, _LOST in Survey(run).summary.failed
    with counter("users ranked", num_users) as show:
        manifest = complete(
            run,
            pool or _pool(),
            functools.partial(load_task, config),
            KIND,
            _describe,
            DriveOptions(
                retry=(_LOST,) if is_lost else (),
                on_progress=lambda progress: show(progress.num_rows),
            ),
        )
    assert manifest is not None, "only a limit ends a run before it is done"
    return manifest


def _pool() -> "Pool":
    """Of an actor a CPU of the cluster."""
    import ray

    from xrec.bulk import RayPool

    return RayPool(max_actors=max(1, int(ray.cluster_resources().get("CPU", 1))))


def publish_recommendations(run: BulkRun) -> Manifest | None:
    """Publish a run that is done, and return its manifest; None if users are left, or lost."""
    return None if has_work(run, retry=(_LOST,)) else publish(run, KIND, _describe)


def _describe(summary: Summary) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    if num_lost := summary.failed.get(_LOST, 0):
        raise ClusterError(
            f"{num_lost} of {summary.num_rows} users are not ranked: {summary.num_deaths} "
            "processes died, which is often for lack of memory. Give the cluster more memory or "
            "fewer CPUs, and run the same command again, which does these users again",
            code="users_not_ranked",
            saw=num_lost,
        )
    counts = {
        "recommendations": "num_ok_rows",
        "users": "num_rows",
        "users_without_items": "num_failed",
    }
    costs = summary.costs
    if _COMPARED not in costs:
        return counts, {}
    recall = costs[_RECALL] / costs[_COMPARED]
    return counts, {"recall_of_index": recall, _COMPARED: int(costs[_COMPARED])}


def load_task(config: RecommendConfig) -> "RankingTask":
    """The task of an actor; the actors of a node share the mapped files of dataset and graph."""
    import torch

    torch.set_num_threads(1)
    dataset, graph = read_tables(config)
    task = RankingTask(dataset, graph, config.k)
    if config.index == "hnsw":
        from xrec.graph.index import ItemIndex

        inputs = identify_recommendations(config).inputs
        task.index = ItemIndex(fingerprint_of(inputs), graph.items, dataset.lost_items)
        named = config.user_ids and [*map(dataset.user_index, config.user_ids)]
        among = np.arange(dataset.num_users) if named is None else np.unique(named)
        task.compared = np.random.default_rng(0).permutation(among)[:_MOST_COMPARED]
    return task


class RankingTask:
    """Ranks the items of some users (a ChunkTask of xrec.bulk).

    With an `index`, its items are compared with the exact ones for the users `compared` (M,).
    """

    row_errors: tuple[type[Exception], ...] = ()
    index: "ItemIndex | None" = None
    compared: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __init__(self, dataset: Dataset, graph: "GraphEmbeddings", k: int):
        from xrec.graph.ranking import seen_items

        self._dataset, self._graph, self._k = dataset, graph, k
        self._seen = seen_items(dataset)

    def do(self, rows: pa.Table) -> Outcome:
        """The k best unseen items of each user, fewer if fewer are left.

        A user who has seen all items is a failed row.
        """
        import torch

        users = np.sort(self._dataset.user_ids.rows(rows["user_id"]))
        assert (users >= 0).all(), "a planned user is not in the dataset"
        items, scores = self._best(torch.from_numpy(users), self.index)
        compared, costs = np.isin(users, self.compared), {}
        if compared.any():
            exact, _ = self._best(torch.from_numpy(users[compared]), None)
            shares = [
                np.isin(best, found).mean()
                for best, found in zip(exact, items[compared], strict=True)
            ]
            costs = {_COMPARED: len(shares), _RECALL: float(sum(shares))}
        of_user, places = np.nonzero(items >= 0)  # -1 where no unseen item is left
        ok = pa.table(
            {
                "user_id": self._ids("user", users[of_user]),
                "item_id": self._ids("item", items[of_user, places]),
                "rank": pa.array(places + 1, pa.int32()),
                "score": pa.array(scores[of_user, places], pa.float32()),
            }
        )
        without = pa.table({"user_id": self._ids("user", users[items[:, 0] < 0])})
        return Outcome(ok, self.fail(without, ALL_SEEN, "the user has seen every item"), costs)

    def _best(
        self, users: "torch.Tensor", index: "ItemIndex | None"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Items and scores (N, k) of `users` (N,), by the index or exactly."""
        import torch

        from xrec.graph.ranking import top_k_items

        vectors = self._graph.users, self._graph.items
        rank = top_k_items if index is None else index.top_k
        chunks = [each for _, *each in rank(*vectors, self._seen, users, self._k)]
        items, scores = (torch.cat(parts).numpy() for parts in zip(*chunks, strict=True))
        return items, scores

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        texts = {"reason": reason, "message": message}
        repeated = {name: pa.repeat(text, rows.num_rows) for name, text in texts.items()}
        return pa.table({"user_id": rows["user_id"], **repeated})

    def _ids(self, what: str, rows: npt.NDArray[np.int64]) -> pa.Array:
        known = {"user": self._dataset.users, "item": self._dataset.items}[what]
        return pa.array(taken(known[f"{what}_id"], rows.tolist()), pa.string())


def recommendation_batches(
    uri: str, k: int | None = None, *, storage: StorageConfig | None = None
) -> Iterator[pa.Table]:
    """Yield the first k items of each user, or all if k is null, many rows at a time.

    The tables have the schema RECOMMENDATIONS. A user's rows follow each other, by rank; users come
    in no particular order.

    Raises ArtifactNotFoundError if nothing is published, ArtifactMismatchError if the table is
    another one, ConfigError if k is more than was recommended.
    """
    table = published(uri, storage=storage)
    dataset = table.dataset(RECOMMENDATIONS)
    there = table.manifest.config["k"]
    if k is not None and k > there:
        raise ConfigError(
            f"k = {k}, but {uri} holds {there} items a user; lower k, or recommend again with a "
            "larger one",
            code="too_large",
            key="k",
            saw=k,
        )
    is_wanted = None if k is None else pc.field("rank") <= k
    with storage_errors(uri):
        for batch in dataset.to_batches(
            columns=RECOMMENDATIONS.names, filter=is_wanted, **FEW_AT_ONCE
        ):
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).cast(RECOMMENDATIONS)

"""The bulk run that writes a peer's texts: its identity, its pairs, its end."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from xrec.backfill.pairs import Batch, table_batches
from xrec.bulk import (
    BulkRun,
    Identity,
    RayPool,
    Summary,
    clean_keys,
    complete,
    listing_of,
    open_run,
    publish,
    tells_what_is_done,
)
from xrec.bulk.publish import Describe
from xrec.bulk.ray_actors import gpus_each
from xrec.config.baselines import PeerConfig
from xrec.data.dataset import read_dataset
from xrec.data.drawn import drawn_explanations
from xrec.errors import DataError
from xrec.lab.baselines.task import TEXTS, MakePeerTask
from xrec.progress import counter
from xrec.schemas import PAIRS
from xrec.storage import Kind, Manifest, location_of, manifest_of, open_location

logger = logging.getLogger("xrec")


def texts_identity(config: PeerConfig) -> Identity:
    """The settings and inputs that the texts depend on.

    Raises ArtifactNotFoundError without a dataset or a trained peer, or without aspects if it
    reads some.
    """
    pairs = (
        {"split": config.split, "max_pairs": config.max_pairs}
        if config.pairs is None
        else {"uri": open_location(config.pairs, config.storage).shared_uri}
    )
    names: list[Kind] = ["dataset", "peer"]
    if config.kind == "peter_plus":
        names.append("aspects")
    return Identity(
        kind="explanations",
        config={"pairs": pairs},
        inputs={str(name): manifest_of(config, name).fingerprint for name in names},
    )


def plan_texts(config: PeerConfig) -> BulkRun:
    """Plan the run, or open the plan that is there.

    Raises DataError if there are no pairs, or they cannot be read; what `texts_identity` and
    `open_run` raise.
    """
    pairs = None if config.pairs is None else open_location(config.pairs, config.storage)
    return open_run(
        config.artifact("explanations"),
        texts_identity(config),
        TEXTS,
        lambda: _pairs(config),
        listing={} if pairs is None else listing_of(pairs),
        rows_per_chunk=config.rows_per_chunk,
        storage=config.storage,
    )


def _pairs(config: PeerConfig) -> Iterator[Batch]:
    if config.pairs is not None:
        yield from table_batches(open_location(config.pairs, config.storage))
        return
    dataset = read_dataset(location_of(config, "dataset"))
    explained = drawn_explanations(dataset, dataset.explained_pairs(config.split), config.max_pairs)
    if not explained.num_rows:
        raise DataError(
            f"{config.artifact('dataset')}: no explained pair is in split {config.split!r}; choose "
            "another split, or give a table of pairs"
        )
    ids = {
        "user_id": dataset.users["user_id"].take(explained["user_index"]),
        "item_id": dataset.items["item_id"].take(explained["item_index"]),
    }
    yield clean_keys(pa.table(ids), PAIRS.names, file=config.artifact("dataset"), first_line=1)


def write_peer_texts(config: PeerConfig) -> Manifest:
    """Write the texts that are missing, publish the table, and return its manifest.

    If all are there, they are published at once; otherwise Ray must be initialised. Raises what
    `plan_texts` and `complete` raise. What is done stays, and the next call goes on from there.
    """
    run, actors = plan_texts(config), config.actors
    if (manifest := publish_texts(run)) is not None:
        return manifest
    pool = RayPool(
        max_actors=actors.num_actors,
        min_actors=actors.min_actors,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, actors.num_actors),
    )
    with (
        tells_what_is_done(run, "texts are written"),
        counter("texts", run.record.num_rows) as show,
    ):
        manifest = complete(
            run,
            pool,
            MakePeerTask.of(config),
            "explanations",
            _describe(run),
            on_progress=lambda progress: show(progress.num_rows),
        )
    assert manifest is not None
    logger.info("%s: %d texts", run.output, manifest.row_counts["explanations"])
    return manifest


def publish_texts(run: BulkRun) -> Manifest | None:
    """Publish a run that is done, and return its manifest; None if pairs are left."""
    return publish(run, "explanations", _describe(run))


def _describe(run: BulkRun) -> Describe:
    def of(summary: Summary) -> tuple[Mapping[str, int], Mapping[str, Any]]:
        seconds = summary.costs.get("seconds", 0.0)
        return {
            "explanations": summary.num_ok,
            "failed": summary.num_failed,
            "rejected": run.record.num_rejected,
        }, {
            "failed_by_reason": dict(summary.failed),
            "writing_seconds": seconds,
            "pairs_per_second": summary.num_rows / seconds if seconds else None,
        }

    return of

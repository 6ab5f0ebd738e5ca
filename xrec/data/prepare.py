"""Makes the dataset artifact from a source: a folder of files, or the sample's generator.

The caller (xrec/jobs/prepare.py) knows all readers, and chooses the source that the config
names.
"""

import logging
from collections.abc import Mapping
from typing import Any

from xrec.config import PrepareConfig, identity_of
from xrec.data.aspects import RULES_VERSION, AspectFinder, profile_aspect_tables
from xrec.data.assemble import CHANGES, TABLES, assemble, check_not_empty
from xrec.data.dataset import ASPECTS_FROM, EXTENDS, AspectsFrom, open_dataset, write_dataset
from xrec.data.findings import check_rejected_share, count_reasons
from xrec.data.sources import LISTING, Source
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import (
    Location,
    Manifest,
    ancestry,
    check_access,
    differing_fields,
    find_manifest,
    finished,
    location_of,
    read_forgotten,
)

logger = logging.getLogger("xrec")


def prepare_dataset(
    config: PrepareConfig, source: Source, find_aspects: AspectFinder | None = None
) -> Manifest:
    """Make the dataset from `source` at its output URI and return its manifest.

    `find_aspects` finds the aspects of profiles, if `config.aspects_from` asks for them.

    If the same run has already finished, only return its manifest. If anything is wrong, write
    nothing. Raises StorageError if the source or output cannot be used, DataError if files are
    missing or broken, and ArtifactMismatchError if the output contains another run's artifact.
    """
    output = location_of(config, "dataset")
    check_access(output, config.storage)
    identity = dataset_settings(config)
    there = find_manifest(output, "dataset")
    if there and finished(output, "dataset", identity, source.hashes(there)):
        logger.info("%s: this dataset already exists", output)
        return there
    listing = source.listing()
    earlier = None
    if config.extends is not None:
        earlier = open_dataset(config.extends, config.storage)
        _check_fits(config.extends, earlier.manifest, identity)
    with Staging(config.splits, config.memory_gb, read_forgotten(config)) as staging:
        source.read(staging)
        assembled = assemble(staging, earlier)
        rejected = staging.rejected()
        check_rejected_share(rejected, staging.num_rows, config.max_rejected_share, source.name)
        check_not_empty(staging)
        tables = dict(assembled.tables)
        if find_aspects is not None:
            whole = {name: staging.table(query) for name, query in TABLES.items()}
            for name in ("low_rated_aspects", "low_rated_user_aspects"):  # of another vocabulary
                tables.pop(name, None)
            tables.update(profile_aspect_tables(whole, find_aspects))
        aspects_from: AspectsFrom = "reviews" if find_aspects is None else "profiles"
        metrics = {
            **assembled.metrics,
            **({ASPECTS_FROM: aspects_from} if "aspects" in tables else {}),
            "num_rejected": {**count_reasons(rejected), **staging.num_forgotten},
            LISTING: [list(each) for each in listing.items()],
            **({} if earlier is None else {EXTENDS: ancestry(earlier.manifest, EXTENDS)}),
        }
        manifest = write_dataset(
            output,
            tables,
            staging.findings(),
            config=identity,
            inputs={**source.inputs, **staging.hashes},
            metrics=metrics,
        )
    _report(manifest, output)
    return manifest


def _check_fits(uri: str, earlier: Manifest, identity: Mapping[str, Any]) -> None:
    """Raise DataError if the splits, or the meaning of aspect counts, would change."""
    names = ("splits", ASPECTS_FROM)
    there, here = ({name: each.get(name) for name in names} for each in (earlier.config, identity))
    if lines := differing_fields(there, here):
        raise DataError(
            f"prepare.extends: {uri} was prepared with other settings: {'; '.join(lines)}; "
            "expected the same ones, since its models stay in use; restore them, or remove the key",
            code="other_settings",
            key="prepare.extends",
            saw=uri,
        )


def dataset_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings that the dataset's content depends on.

    The location of the files is not one of them; the manifest's inputs have their hashes.
    """
    settings = identity_of(config)
    if config.aspects_from is not None:
        settings[ASPECTS_FROM] = {"kind": config.aspects_from, "version": RULES_VERSION}
    return settings


def _report(manifest: Manifest, output: Location) -> None:
    metrics, counts = manifest.metrics, manifest.row_counts
    logger.info("%s: %s", output, _listed(counts))
    num_removed = metrics["num_removed_edges"]
    logger.info("%d training edges removed because their explanations are held out", num_removed)
    for table, changed in metrics.get(CHANGES, {}).items():
        logger.info("%s since the dataset that this one extends: %s", table, _listed(changed))
    for table, count in metrics["num_without_table"].items():
        message = "no table of %s: %d IDs come from the pairs, with empty texts"
        logger.warning(message, table, count)
    if counts["explanations"] == 0:
        logger.warning("no explanations: this dataset can train a graph, but not an adapter")
    for reason, count in metrics["num_rejected"].items():
        logger.warning("%s: %d rows left out (see rejected.parquet)", reason, count)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

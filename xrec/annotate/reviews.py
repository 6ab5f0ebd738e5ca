"""From a source to the kept reviews: read, filtered, split and written, before any text is."""

import logging

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.identity import begin, identify_annotations
from xrec.annotate.keep import keep_reviews
from xrec.annotate.source import file_hashes, find_review_files, read_reviews
from xrec.annotate.store import ReviewStore, StoreRecord, read_record, write_store
from xrec.config.annotate import AnnotateConfig
from xrec.data.source import check_rejected_share, rejected_table
from xrec.schemas import REJECTED
from xrec.storage import check_access, location_of, write_table

logger = logging.getLogger("xrec")

_LEARNED = "annotator/learned"


def keep_source(config: AnnotateConfig, spec: AnnotatorSpec) -> StoreRecord:
    """Read, filter, split and write the reviews, and let the annotator learn from them.

    What is done already is not done again. Raises ArtifactMismatchError if the output is another
    run's, DataError if a file is missing or too many of its rows cannot be used, StorageError.
    """
    output = location_of(config, "annotations")
    check_access(output, config.storage)
    files = find_review_files(config)
    begin(output, identify_annotations(config, spec, file_hashes(files)))
    record = read_record(output)
    if record is None:
        raw = read_reviews(config, files)
        check_rejected_share(
            raw.findings, raw.num_rows, config.max_rejected_share, config.source.uri
        )
        kept = keep_reviews(raw.reviews, config)
        write_table(output / "reviews" / "rejected.parquet", rejected_table(raw.findings), REJECTED)
        record = write_store(output, raw, kept)
        _report(record)
    if spec.num_learned and not (output / _LEARNED).is_file():
        store = ReviewStore(output, record.num_files)
        spec.learn(store.training_sample(spec.num_learned), output)
        (output / _LEARNED).write_bytes(b"")
    return record


def _report(record: StoreRecord) -> None:
    splits = ", ".join(f"{count} {split}" for split, count in record.num_reviews.items())
    logger.info(
        "%d reviews of %d users and %d items: %s",
        sum(record.num_reviews.values()),
        record.num_users,
        record.num_items,
        splits,
    )
    if record.num_low_rated:
        logger.info("%d low-rated reviews of these items are annotated too", record.num_low_rated)
    for reason, count in record.dropped.items():
        logger.info("%d reviews dropped: %s", count, reason)
    for reason, count in record.rejected.items():
        logger.warning("%d rows rejected: %s (see reviews/rejected.parquet)", count, reason)
    if record.personal:
        found = ", ".join(f"{count} x {kind}" for kind, count in record.personal.items())
        logger.info("personal data removed: %s", found)

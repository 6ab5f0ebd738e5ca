"""Stores the kept reviews on disk or S3, where actors look up the reviews of their rows.

    reviews/training_by_item/    training reviews, by the hash of the item
    reviews/training_by_user/    training reviews, by the hash of the user
    reviews/all_by_user/         all reviews, including low-rated ones, by the hash of the user;
                                 only for pairs
    reviews/record.json          the number of files in each folder, and counts; written last

Each chunk of a bulk run is a range of the same hash, so its reviews are in one or two files.
Profiles are written from the first two folders, which contain no held-out review.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import KIND, identify_annotations
from xrec.annotate.keep import KeptReviews, keep_reviews, listed
from xrec.annotate.source import RawReviews, file_hashes, find_review_files, read_reviews
from xrec.bulk import bucket_of
from xrec.config import AnnotateConfig
from xrec.data import check_rejected_share, count_findings, count_reasons, rejected_table
from xrec.errors import StorageNotFoundError
from xrec.schemas import ITEM_DETAILS, REJECTED, REVIEWS
from xrec.storage import (
    FORGOTTEN,
    Location,
    Record,
    check_access,
    claim,
    location_of,
    read_table,
    write_table,
)

logger = logging.getLogger("xrec")

Folder = Literal["training_by_item", "training_by_user", "all_by_user"]
_ID: Mapping[Folder, str] = {
    "training_by_item": "item_id",
    "training_by_user": "user_id",
    "all_by_user": "user_id",
}
_REVIEWS_PER_FILE = 8192
_MAX_FILES = 4096
_KEPT_FILES = 4  # kept in memory by an actor
_NUM_LEARNED = 20_000  # training reviews that an annotator learns from
_LEARNED = "annotator/learned"


class StoreRecord(Record):
    """The content of `record.json`.

    num_files: the files per folder. num_reviews: the reviews by split, without low-rated ones.
        dropped: the dropped reviews, by reason. rejected: the unusable rows, by file and reason.
        personal: the removed pieces of personal data, by kind.
    """

    num_files: int
    num_reviews: dict[str, int]
    num_low_rated: int
    num_users: int
    num_items: int
    dropped: dict[str, int]
    rejected: dict[str, int]
    personal: dict[str, int]


def keep_source(config: AnnotateConfig, spec: AnnotatorSpec) -> StoreRecord:
    """Read, filter, split and write the reviews, unless an earlier run did.

    Raises ArtifactMismatchError if the output belongs to another run, DataError if a file is
    missing or too many of its rows are unusable, and StorageError.
    """
    output = location_of(config, KIND)
    check_access(output, config.storage)
    files = find_review_files(config)
    identity = identify_annotations(config, spec, file_hashes(files))
    claim(output, KIND, identity.config, identity.inputs)
    if (record := read_record(output)) is not None:
        return record
    raw = read_reviews(config, files)
    rejected = count_findings(raw.findings)
    check_rejected_share(rejected, raw.num_rows, config.max_rejected_share, config.source.uri)
    kept = keep_reviews(raw.reviews, config)
    write_table(output / "reviews" / "rejected.parquet", rejected_table(raw.findings), REJECTED)
    record = write_store(output, raw, kept)
    logged = {
        "reviews kept": {**record.num_reviews, "low-rated": record.num_low_rated},
        "reviews dropped": record.dropped,
        "rows rejected (see reviews/rejected.parquet)": record.rejected,
        "personal data removed": record.personal,
    }
    for what, counts in logged.items():
        logger.info("%s: %s", what, listed(counts))
    return record


def learn_from_store(output: Location, spec: AnnotatorSpec, record: StoreRecord) -> None:
    """Let the annotator learn from the kept reviews, unless it already has."""
    if spec.learn is not None and not (output / _LEARNED).is_file():
        spec.learn(ReviewStore(output, record.num_files).training_sample(), output)
        (output / _LEARNED).write_bytes(b"")


def write_store(output: Location, raw: RawReviews, kept: KeptReviews) -> StoreRecord:
    """Write the kept reviews and the items; the same input gives the same files."""
    reviews, low_rated = kept.reviews, kept.low_rated
    training = reviews.filter(pc.equal(reviews["split"], "train"))
    num_files = min(_MAX_FILES, 1 << (reviews.num_rows // _REVIEWS_PER_FILE).bit_length())
    _write_folder(output, "training_by_item", training, num_files)
    _write_folder(output, "training_by_user", training, num_files)
    _write_folder(output, "all_by_user", pa.concat_tables([reviews, low_rated]), num_files)
    write_table(output / "reviews" / "items.parquet", _items(raw, kept), ITEM_DETAILS)
    record = StoreRecord(
        num_files=num_files,
        num_reviews=Counter(reviews["split"].to_pylist()),
        num_low_rated=low_rated.num_rows,
        num_users=pc.count_distinct(reviews["user_id"]).as_py(),
        num_items=pc.count_distinct(reviews["item_id"]).as_py(),
        dropped=dict(kept.dropped) | ({FORGOTTEN: raw.num_forgotten} if raw.num_forgotten else {}),
        rejected=count_reasons(count_findings(raw.findings)),
        personal=dict(raw.num_personal),
    )
    (output / "reviews" / "record.json").write_bytes(record.to_bytes())
    return record


def _items(raw: RawReviews, kept: KeptReviews) -> pa.Table:
    """Return the items of the source's table; if it is empty, those with a title in the reviews."""
    ids = kept.reviews["item_id"].unique().to_pylist()
    rows = [{"item_id": id_, "title": raw.titles.get(id_, ""), "details": ""} for id_ in ids]
    named = [row for row in rows if row["title"] and not raw.items.num_rows]
    return pa.concat_tables([raw.items, pa.Table.from_pylist(named, schema=ITEM_DETAILS)])


def read_record(output: Location) -> StoreRecord | None:
    """Return the record, or None if the reviews are not completely written."""
    with suppress(StorageNotFoundError):
        return StoreRecord.read(output / "reviews" / "record.json")
    return None


class ReviewStore:
    """A reader of the reviews of users or items; the files used last stay in memory."""

    def __init__(self, output: Location, num_files: int):
        self._output, self._num_files = output, num_files
        self._file = lru_cache(_KEPT_FILES)(self._read)

    def of(self, folder: Folder, ids: Iterable[str]) -> pa.Table:
        """Return the reviews of the users or items `ids` in `folder` (schema REVIEWS).

        They are sorted by id, then by helpfulness and time, in descending order.
        """
        wanted = pa.array(list(ids), pa.string())
        key = _ID[folder]
        parts = [
            self._file(folder, int(number)).filter(pc.field(key).isin(wanted))
            for number in np.unique(_files_of(pa.chunked_array([wanted]), self._num_files))
        ]
        return pa.concat_tables([REVIEWS.empty_table(), *parts]).sort_by(key)

    def training_sample(self) -> pa.Table:
        """Return up to 20,000 training reviews, of users chosen by a hash."""
        sample = REVIEWS.empty_table()
        for rows in self.reviews("training_by_user"):
            sample = pa.concat_tables([sample, rows])
            if sample.num_rows >= _NUM_LEARNED:
                break
        return sample.slice(0, _NUM_LEARNED)

    def reviews(self, folder: Folder) -> Iterator[pa.Table]:
        """Yield the reviews of `folder` file by file (schema REVIEWS)."""
        for number in range(self._num_files):
            yield self._file(folder, number)

    @cached_property
    def items(self) -> pa.Table:
        """The stored items (schema ITEM_DETAILS)."""
        return read_table(self._output / "reviews" / "items.parquet", ITEM_DETAILS)

    def _read(self, folder: Folder, number: int) -> pa.Table:
        return read_table(_file(self._output, folder, number), REVIEWS)


def _write_folder(output: Location, folder: Folder, rows: pa.Table, num_files: int) -> None:
    key = _ID[folder]
    best_first = [(key, "ascending"), ("helpful", "descending"), ("time", "descending")]
    rows = rows.sort_by([*best_first, ("user_id", "ascending"), ("item_id", "ascending")])
    files = _files_of(rows[key], num_files)
    ends = np.cumsum(np.bincount(files, minlength=num_files))
    for number, indices in enumerate(np.split(np.argsort(files, kind="stable"), ends[:-1])):
        write_table(_file(output, folder, number), rows.take(pa.array(indices)), REVIEWS)


def _files_of(ids: pa.ChunkedArray, num_files: int) -> npt.NDArray[np.int64]:
    """Return the file number of each of N ids, (N,); each distinct id is hashed once."""
    encoded = ids.combine_chunks().dictionary_encode()
    of_id = [bucket_of(id_, num_files) for id_ in encoded.dictionary.to_pylist()]
    files: npt.NDArray[np.int64] = np.array(of_id, np.int64)[encoded.indices.to_numpy()]
    return files


def _file(output: Location, folder: Folder, number: int) -> Location:
    return output / "reviews" / folder / f"{number:04d}.parquet"

"""Where artifacts lie: URIs, manifests, tables. The only module that knows local paths from s3://."""

from xrec.storage.artifact import (
    MANIFEST,
    Kind,
    Manifest,
    content_hash,
    differing_fields,
    fingerprint_of,
    finished,
    is_begun,
    read_manifest,
    run_fingerprint,
    write_manifest,
)
from xrec.storage.location import Location, check_access, open_location, storage_errors
from xrec.storage.requests import request_each
from xrec.storage.tables import parquet_bytes, read_row_group, read_table, write_table

__all__ = [
    "MANIFEST",
    "Kind",
    "Location",
    "Manifest",
    "check_access",
    "content_hash",
    "differing_fields",
    "fingerprint_of",
    "finished",
    "is_begun",
    "open_location",
    "parquet_bytes",
    "read_manifest",
    "read_row_group",
    "read_table",
    "request_each",
    "run_fingerprint",
    "storage_errors",
    "write_manifest",
    "write_table",
]

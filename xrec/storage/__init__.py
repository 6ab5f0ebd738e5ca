"""Where artifacts lie: URIs, manifests, tables. Nothing else tells a local path from s3://."""

from xrec.storage.artifact import (
    MANIFEST,
    TABLES,
    Kind,
    Manifest,
    content_hash,
    differing_fields,
    fingerprint_of,
    finished,
    is_begun,
    make_manifest,
    read_manifest,
    run_fingerprint,
    write_manifest,
)
from xrec.storage.contents import read_content, write_contents
from xrec.storage.job_artifacts import check_artifacts, location_of, manifest_of
from xrec.storage.location import Location, Tail, storage_errors
from xrec.storage.requests import request_each
from xrec.storage.row_group import read_footer, read_known_row_group
from xrec.storage.tables import parquet_bytes, read_table, write_table
from xrec.storage.uri import check_access, open_location

__all__ = [
    "MANIFEST",
    "TABLES",
    "Kind",
    "Location",
    "Manifest",
    "Tail",
    "check_access",
    "check_artifacts",
    "content_hash",
    "differing_fields",
    "fingerprint_of",
    "finished",
    "is_begun",
    "location_of",
    "make_manifest",
    "manifest_of",
    "open_location",
    "parquet_bytes",
    "read_content",
    "read_footer",
    "read_known_row_group",
    "read_manifest",
    "read_table",
    "request_each",
    "run_fingerprint",
    "storage_errors",
    "write_contents",
    "write_manifest",
    "write_table",
]

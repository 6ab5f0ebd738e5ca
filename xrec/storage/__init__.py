"""Where artifacts lie: URIs, manifests, tables. Nothing else tells a local path from s3://."""

from xrec.storage.artifact import (
    MANIFEST,
    RUN_RECORD,
    TABLES,
    Kind,
    Manifest,
    claim,
    content_hash,
    differing_fields,
    fingerprint_of,
    finished,
    make_manifest,
    read_content,
    read_manifest,
    run_fingerprint,
    write_contents,
    write_manifest,
)
from xrec.storage.location import Location, request_each, storage_errors
from xrec.storage.parquet import (
    parquet_bytes,
    read_footer,
    read_table,
    write_table,
)
from xrec.storage.uri import check_access, check_artifacts, location_of, manifest_of, open_location

__all__ = [
    "MANIFEST",
    "RUN_RECORD",
    "TABLES",
    "Kind",
    "Location",
    "Manifest",
    "check_access",
    "check_artifacts",
    "claim",
    "content_hash",
    "differing_fields",
    "fingerprint_of",
    "finished",
    "location_of",
    "make_manifest",
    "manifest_of",
    "open_location",
    "parquet_bytes",
    "read_content",
    "read_footer",
    "read_manifest",
    "read_table",
    "request_each",
    "run_fingerprint",
    "storage_errors",
    "write_contents",
    "write_manifest",
    "write_table",
]

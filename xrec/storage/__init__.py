"""Locations, artifacts and tables in a store; the rest of xrec treats disk and S3 alike.

location, local, s3, uri    files and folders at URIs
manifest, artifact          what an artifact is; how to read, write, claim and delete one
parquet, mapped             tables in files; files that the processes of a node share
forgotten                   the list of forgotten people
lease                       leases of folders; names of driver processes
cache                       a cache with a size limit in bytes
"""

from xrec.storage.artifact import (
    CHECKPOINTS,
    DELETING,
    MANIFEST,
    RUN_RECORD,
    check_manifest,
    claim,
    delete_artifact,
    download,
    find_manifest,
    finished,
    read_content,
    read_manifest,
    write_contents,
    write_manifest,
)
from xrec.storage.cache import ByteCache
from xrec.storage.forgotten import FORGOTTEN, Forgotten, open_list, put_on_list, read_forgotten
from xrec.storage.lease import (
    AT_WORK,
    DRIVER,
    Beat,
    Lease,
    at_work,
    only_driver,
    refuse_driver,
    this_process,
    wait_for_jobs,
)
from xrec.storage.local import LocalLocation
from xrec.storage.location import VERSION, Location
from xrec.storage.manifest import (
    Kind,
    Manifest,
    Record,
    ancestry,
    content_hash,
    differing_fields,
    fingerprint_of,
    make_manifest,
    mismatch,
    run_fingerprint,
)
from xrec.storage.mapped import (
    Allocate,
    Arrays,
    delete_mapped,
    file_of_zeros,
    filled_arrays,
    made_once,
    map_file,
    map_table,
    mapped,
    mapped_arrays,
    node_folder,
)
from xrec.storage.parquet import (
    check_columns,
    parquet_bytes,
    read_footer,
    read_table,
    row_groups,
    write_table,
)
from xrec.storage.requests import request_each, storage_errors, traffic, with_backoff
from xrec.storage.uri import (
    PYPI,
    check_access,
    check_artifacts,
    location_of,
    manifest_of,
    open_location,
    package_files,
)

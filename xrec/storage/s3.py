"""Locations in an S3 bucket, through s3fs; see `Location` for what each method promises.

A file is created with a PUT request that has `If-None-Match: *`.
"""

import errno
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Self

import pyarrow.fs
import s3fs
from botocore.exceptions import ClientError

from xrec.config import StorageConfig
from xrec.errors import StorageError
from xrec.storage.location import VERSION, Location
from xrec.storage.requests import count_traffic, storage_errors

_CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 60.0
MAX_ATTEMPTS = 5
"""Maximum number of attempts per request; the pauses between them add up to about seven seconds."""
_CONNECTIONS = 64
"""Concurrent connections; botocore allows 10 by default."""


@dataclass(frozen=True)
class S3Location(Location):
    """An object, or all objects below a prefix; `path` is bucket/key."""

    def read_bytes(self) -> bytes:
        with storage_errors(self.uri):
            # By default s3fs gets the size first and reads large files in parts, which may come
            # from different versions. With max_concurrency=1 it sends a single request.
            return bytes(self.fs.cat_file(self.path, max_concurrency=1))

    def read_range(self, start: int, num_bytes: int) -> bytes:
        try:
            return super().read_range(start, num_bytes)
        except StorageError as error:
            why = error.__cause__
            if start >= 0 or not (isinstance(why, OSError) and why.errno == errno.EINVAL):
                raise
        return self.read_bytes()  # the file is empty, so the range is invalid

    def write_bytes(self, data: bytes) -> None:
        """See Location; S3 shows an object only after its upload is complete."""
        with storage_errors(self.uri):
            self.fs.pipe_file(self.path, data)

    def write_file(self, path: str) -> None:
        with storage_errors(self.uri):
            self.fs.put_file(path, self.path)

    def kept_after_deletion(self) -> tuple[str, Self, Mapping[str, str] | None]:
        """See Location; what a bucket keeps depends on its versioning and lifecycle."""
        bucket, _, folder = self.path.partition("/")
        folder = folder and f"{folder}/"
        aware = replace(self, fs=CountingS3(**self.fs.storage_options | {"version_aware": True}))
        by_key = defaultdict[str, list[dict[str, Any]]](list)
        try:
            if not self.fs.call_s3("get_bucket_versioning", Bucket=bucket).get("Status"):
                return "nothing, because the bucket has no versioning", aware, {}
            days = self._days_kept(bucket, folder)
            page: dict[str, Any] = {"IsTruncated": True}
            while page["IsTruncated"]:
                names = ("KeyMarker", "VersionIdMarker")
                after = {name: page[f"Next{name}"] for name in names if f"Next{name}" in page}
                page = self.fs.call_s3(
                    "list_object_versions", Bucket=bucket, Prefix=folder, **after
                )
                for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    by_key[entry["Key"]].append(entry)
        except (OSError, ClientError, NotImplementedError):
            return "not known: the store does not say", aware, None
        until = {}
        for key, entries in by_key.items():
            entries.sort(key=lambda entry: (entry["LastModified"], entry["IsLatest"]))
            for entry, successor in pairwise(entries):
                if "Size" in entry:  # no mark of a deletion
                    name = f"{key.removeprefix(folder)}{VERSION}{entry['VersionId']}"
                    until[name] = _end_of(successor["LastModified"], days)
        how_long = "for ever, as no lifecycle rule ends all of them"
        if days is not None:
            how_long = f"for {days} days and until the next midnight in UTC"
        return f"versions that were replaced or deleted, {how_long}", aware, until

    def _days_kept(self, bucket: str, folder: str) -> int | None:
        """Return after how many days replaced versions below a folder are deleted; None if never.

        Rules for only some of them, by tag, size, or number of newer versions, do not count.
        """
        try:
            found = self.fs.call_s3("get_bucket_lifecycle_configuration", Bucket=bucket)
        except PermissionError:
            raise
        except (OSError, ClientError):  # there are no rules
            return None
        days = []
        for rule in found["Rules"]:
            where, ends = rule.get("Filter") or rule, rule.get("NoncurrentVersionExpiration", {})
            is_for_all = where is rule or where.keys() <= {"Prefix"}
            if (
                rule["Status"] == "Enabled"
                and is_for_all
                and folder.startswith(where.get("Prefix", ""))
                and ends.keys() == {"NoncurrentDays"}
            ):
                days.append(ends["NoncurrentDays"])
        return min(days, default=None)

    def create_bytes(self, data: bytes) -> bool:
        with storage_errors(self.uri):
            try:
                self.fs.pipe_file(self.path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # s3fs reports a failed precondition (412) as EINVAL, and a race (409) as EBUSY.
                if error.errno in (errno.EINVAL, errno.EBUSY) and self.fs.exists(self.path):
                    return False
                raise
        return True

    def files(self) -> list[str]:
        with storage_errors(self.uri):
            root = self.path.rstrip("/") + "/"
            paths = self.fs.find(self.path)
        return sorted(path.removeprefix(root) for path in paths if path.startswith(root))

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))

    def _listing(self) -> Mapping[str, Mapping[str, Any]]:
        with storage_errors(self.uri):
            try:
                infos = self.fs.ls(self.path, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        files = (info for info in infos if info["type"] == "file")
        return {info["name"].rpartition("/")[2]: info for info in files}

    def delta_options(self) -> dict[str, str]:
        """See Location; deltalake's client also reads the AWS environment variables."""
        fs, config = self.fs, self.fs.config_kwargs
        options = {
            "AWS_ALLOW_HTTP": "true",  # no effect if the endpoint is https://
            "AWS_ENDPOINT_URL": fs.endpoint_url,
            "AWS_REGION": (fs.client_kwargs or {}).get("region_name"),
            "AWS_ACCESS_KEY_ID": fs.key,
            "AWS_SECRET_ACCESS_KEY": fs.secret,
            "connect_timeout": f"{config['connect_timeout']:g}s",
            "timeout": f"{config['read_timeout']:g}s",
            "max_retries": str(config["retries"]["total_max_attempts"] - 1),
        }
        return {name: str(value) for name, value in options.items() if value}

    def check_bucket(self, storage: StorageConfig) -> None:
        """Send one HEAD request for the bucket, without retries.

        Raises StorageAccessError if the credentials are refused, StorageNotFoundError if the bucket
        does not exist, StorageUnreachableError if the endpoint does not respond.
        """
        with storage_errors(self.uri):
            fs = s3fs.S3FileSystem(
                skip_instance_cache=True,
                use_listings_cache=False,
                **_client_settings(storage, max_attempts=1),
            )
            fs.retries = 1  # s3fs retries on top of botocore
            fs.call_s3("head_bucket", Bucket=self.path.split("/", 1)[0])


def _end_of(replaced: datetime, days: int | None) -> str:
    """Return when S3 deletes a version, which is at the midnight after so many days."""
    if days is None:
        return "for ever"
    date = replaced.astimezone(UTC).date() + timedelta(days + 1)
    return f"{date}T00:00+00:00"


class CountingS3(s3fs.S3FileSystem):  # type: ignore[misc]
    """A file system that counts request attempts and the bytes of bodies (see `traffic`)."""

    async def set_session(self, *arguments: Any, **options: Any) -> Any:
        client = await super().set_session(*arguments, **options)
        client.meta.events.register("before-send.s3", _count_sent, "xrec sent")
        client.meta.events.register("response-received.s3", _count_received, "xrec received")
        return client


def _count_sent(request: Any, **_: object) -> None:
    # Over HTTPS, a body is sent in signed chunks and its length is in another header.
    sizes = map(request.headers.get, ("X-Amz-Decoded-Content-Length", "Content-Length"))
    count_traffic(store_requests=1, bytes_written=int(next(filter(None, sizes), 0)))


def _count_received(event_name: str, response_dict: Any = None, **_: object) -> None:
    # The response to a HEAD request gives the length of an object but has no body.
    if response_dict and "Head" not in event_name:
        count_traffic(bytes_read=int(response_dict["headers"].get("content-length", 0)))


def open_s3(storage: StorageConfig) -> s3fs.S3FileSystem:
    """Return a file system for s3://; AWS variables and files supply what `storage` lacks."""
    return CountingS3(use_listings_cache=False, **_client_settings(storage, MAX_ATTEMPTS))


def _client_settings(storage: StorageConfig, max_attempts: int) -> dict[str, Any]:
    key, secret = storage.access_key_id, storage.secret_access_key
    return {
        "endpoint_url": storage.endpoint_url,
        "key": key.get_secret_value() if key else None,
        "secret": secret.get_secret_value() if secret else None,
        "client_kwargs": {"region_name": storage.region} if storage.region else {},
        "config_kwargs": {
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "read_timeout": READ_TIMEOUT_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": max_attempts},
            "max_pool_connections": _CONNECTIONS,
        },
    }

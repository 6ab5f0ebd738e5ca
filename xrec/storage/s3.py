"""S3 through s3fs: how a client is made from the config, and the one request that tells whether a bucket can be used."""

from typing import Any

import s3fs

from xrec.config.shared import StorageConfig


def open_s3(storage: StorageConfig) -> s3fs.S3FileSystem:
    """A file system for s3://; what the config leaves out comes from the usual AWS variables and files."""
    return s3fs.S3FileSystem(
        use_listings_cache=False, **_client_settings(storage, storage.max_attempts)
    )


def probe_bucket(bucket: str, storage: StorageConfig) -> None:
    """One HEAD request on the bucket, without retries; raises what s3fs or botocore raise."""
    fs = s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        **_client_settings(storage, max_attempts=1),
    )
    fs.retries = 1  # s3fs retries on top of botocore
    fs.call_s3("head_bucket", Bucket=bucket)


def _client_settings(storage: StorageConfig, max_attempts: int) -> dict[str, Any]:
    return {
        "endpoint_url": storage.endpoint_url,
        "key": storage.access_key_id.get_secret_value() if storage.access_key_id else None,
        "secret": storage.secret_access_key.get_secret_value()
        if storage.secret_access_key
        else None,
        "client_kwargs": {"region_name": storage.region} if storage.region else {},
        "config_kwargs": {
            "connect_timeout": storage.connect_timeout_seconds,
            "read_timeout": storage.read_timeout_seconds,
            "retries": {"mode": "standard", "total_max_attempts": max_attempts},
        },
    }

"""Which location a URI is, and which URIs are refused."""

from pathlib import Path

import pytest

from xrec.config.shared import StorageConfig
from xrec.errors import StorageError
from xrec.storage import open_location


def test_location_relative_and_home_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert open_location("x/y").path == str(tmp_path / "x" / "y")
    assert open_location("~/y").path == "/home/somebody/y"


def test_open_location_of_s3_has_its_uri_and_reaches_other_buckets() -> None:
    storage = StorageConfig(access_key_id="k", secret_access_key="s", region="us-east-1")
    remote = open_location("s3://bucket/run", storage)
    assert (remote.shared_uri, (remote / "part").path) == ("s3://bucket/run", "bucket/run/part")
    assert remote.at("s3://other/old").path == "other/old"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "'gs' is not supported"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
    ],
)
def test_open_location_unusable_uri_is_refused(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        open_location(uri)

"""Where the token of a cluster is looked for."""

from pathlib import Path

import pytest

from cluster.token import auth_headers
from xrec.errors import ClusterError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_auth_headers_token_variable_goes_before_files(home: Path) -> None:
    (home / "token").write_text("from-file\n", encoding="ascii")
    environment = {"RAY_AUTH_TOKEN": "from-variable", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    assert auth_headers(environment) == {"Authorization": "Bearer from-variable"}
    del environment["RAY_AUTH_TOKEN"]
    assert auth_headers(environment) == {"Authorization": "Bearer from-file"}


def test_auth_headers_default_file_is_used_if_there_is_one(home: Path) -> None:
    assert auth_headers({}) == {}
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("default", encoding="ascii")
    assert auth_headers({}) == {"Authorization": "Bearer default"}
    assert auth_headers({"RAY_AUTH_MODE": "disabled"}) == {}


def test_auth_headers_named_file_is_missing_is_an_error(home: Path) -> None:
    with pytest.raises(ClusterError, match="nowhere"):
        auth_headers({"RAY_AUTH_TOKEN_PATH": str(home / "nowhere")})

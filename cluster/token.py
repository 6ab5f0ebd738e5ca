"""Finds the token of a Ray cluster with token authentication, where Ray itself looks for it.

https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

import os
from collections.abc import Mapping
from pathlib import Path

from xrec.errors import ClusterError


def auth_headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the HTTP headers that authenticate requests to a cluster.

    They are empty if there is no token or RAY_AUTH_MODE is "disabled". Raises ClusterError if
    RAY_AUTH_TOKEN_PATH names a file that is not there.
    """
    token = _find_token(environment)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _find_token(environment: Mapping[str, str]) -> str | None:
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        if named:
            raise ClusterError(
                f"RAY_AUTH_TOKEN_PATH is {named!r}, and there is no such file; "
                "set it to the file that holds the token"
            ) from error
        return None

"""Requests to the dashboard of a Ray cluster, which is also its job server.

They are plain HTTP, so Ray need not run here or be imported.
"""

import json
import urllib.error
import urllib.request
from typing import Any

from cluster.address import JobServer
from cluster.reach import check_reachable
from xrec.errors import ClusterError

_TIMEOUT_SECONDS = 30.0
_ADVICE = "check that the cluster runs and that this is its dashboard, http://host:8265 by default"


def ask(server: JobServer, path: str, method: str = "GET") -> Any:
    """Return the JSON of the dashboard's answer, or None if the path names an unknown job.

    Raises ClusterError if the dashboard does not answer or refuses the request.
    """
    check_reachable(server.url, _ADVICE)
    request = urllib.request.Request(
        server.url.rstrip("/") + path, headers=dict(server.headers), method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404 and path.startswith("/api/jobs/"):
            return None
        raise ClusterError(
            f"{server.url} answered {error.code} {error.reason}; for 401 or 403 set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        ) from error
    except (OSError, ValueError) as error:
        raise ClusterError(f"{server.url} did not answer with JSON ({error}); {_ADVICE}") from error

"""What a running Ray cluster consists of, asked over HTTP from its dashboard: no Ray needs to run here."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.connect import check_reachable
from cluster.token import auth_headers
from xrec.errors import ClusterError

_TIMEOUT_SECONDS = 30.0
_NODES_PATH = "/api/v0/nodes?limit=10000&detail=1"


@dataclass(frozen=True)
class NodeStatus:
    """One node. `resources` maps a name to a total: CPU and GPU in units, memory in bytes."""

    node_id: str
    address: str
    is_head: bool
    is_alive: bool
    resources: Mapping[str, float]


def nodes(dashboard_url: str, headers: Mapping[str, str] | None = None) -> list[NodeStatus]:
    """The nodes of the cluster whose dashboard is at `dashboard_url`, head first; dead ones are listed too.

    `headers` authenticate (none: Ray's token of this user). Raises ClusterError if the cluster does not answer or refuses.
    """
    check_reachable(dashboard_url, "check that the cluster runs and that this is its dashboard, http://host:8265 by default")
    request = urllib.request.Request(dashboard_url.rstrip("/") + _NODES_PATH, headers=dict(auth_headers() if headers is None else headers))
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
    except urllib.error.HTTPError as error:
        raise ClusterError(f"{dashboard_url}: answered {error.code} {error.reason}; 401 or 403: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{dashboard_url}: no list of nodes in its answer ({error}); is this a Ray dashboard?") from error
    return sorted((_node(row) for row in rows), key=lambda node: (not node.is_head, node.address))


def _node(row: Mapping[str, Any]) -> NodeStatus:
    resources = {name: total for name, total in row["resources_total"].items() if not name.startswith("node:")}
    return NodeStatus(row["node_id"], row["node_ip"], row["is_head_node"], row["state"] == "ALIVE", resources)

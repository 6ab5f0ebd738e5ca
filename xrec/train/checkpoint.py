"""What the checkpoints of every training share: they belong to one run, and another run is refused.

run.json       beside the checkpoints: whose they are, with all settings and inputs, so that a refusal can name what differs
progress.json  in each checkpoint: how far it is, and its run's fingerprint
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from xrec.errors import ArtifactMismatchError
from xrec.storage import Kind, Location, is_begun, run_fingerprint

PROGRESS = "progress.json"
_RUN = "run.json"

ReadFile = Callable[[str], bytes]
"""The content of a checkpoint's file, by name."""


def claim(
    checkpoints: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> bool:
    """Make the folder this run's if it is nobody's; True if it was this run's before.

    `config` and `inputs` as `write_manifest` takes them. Raises ArtifactMismatchError, naming each field that differs with
    both values, if it is another run's.
    """
    if is_begun(checkpoints, _RUN, kind, config, inputs):
        return True
    record = {
        "run": run_fingerprint(kind, config, inputs),
        "config": dict(config),
        "inputs": dict(inputs),
    }
    (checkpoints / _RUN).write_bytes(json.dumps(record, indent=1).encode())
    return False


def progress_values(read: ReadFile, run: str) -> dict[str, Any]:
    """What `progress.json` holds; raises ArtifactMismatchError if it is of another run than `run`."""
    values: dict[str, Any] = json.loads(read(PROGRESS))
    if values.get("run") != run:
        raise ArtifactMismatchError(
            f"the checkpoint is of run {values.get('run', '(not named)')}, this is run {run}: its settings, its inputs or its version differ; "
            "give another output URI, or delete the checkpoints"
        )
    return values

"""A driver in a process of its own.

Usage: python -m tests.xrec.backfill.chaos_driver FOLDER OUTPUT ROWS_PER_CHUNK SECONDS_PER_PROMPT
The AWS variables name the store, and RAY_ADDRESS the cluster. The driver takes the run over,
whoever is at work.
"""

import os
import sys
from pathlib import Path

from benchmarks.backfill_catalogue import backfill_config
from cluster.connect import ensure_ray
from tests.xrec.backfill.runs import run
from tests.xrec.backfill.toy_engines import Toy
from xrec.config.shared import StorageConfig


def main(folder: str, output: str, rows_per_chunk: str, seconds_per_prompt: str) -> None:
    """Run until the manifest is there."""
    names = {
        "endpoint_url": "AWS_ENDPOINT_URL",
        "access_key_id": "AWS_ACCESS_KEY_ID",
        "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    }
    # The nodes do not have the variables, so the config must hold them.
    keys = {key: os.environ[name] for key, name in names.items()}
    storage = StorageConfig(max_attempts=8, **keys)
    config = backfill_config(
        Path(folder), output, storage, rows_per_chunk=int(rows_per_chunk), take_over=True
    )
    with ensure_ray(config.ray):
        run(config, load=Toy(seconds_per_prompt=float(seconds_per_prompt)))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A driver in a process of its own, which a test can stop, wake and race: its program and start.

    python -m tests.xrec.table.driver race NAME
    python -m tests.xrec.table.driver commit NAME

`race` takes the table over five times and commits one file each time. `commit` takes it over once,
says so, and commits a file again and again until it is refused. The place of the table is JSON in
the variable TABLE_PLACE, because it may have a secret.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import file_of
from xrec.config.shared import StorageConfig
from xrec.errors import LostTableError
from xrec.table import Table


def start_driver(place: Place, what: str, name: str) -> "subprocess.Popen[str]":
    """Start the program; each line that it prints is JSON."""
    secrets = {
        field: getattr(place.storage, field).get_secret_value()
        for field in ("access_key_id", "secret_access_key")
        if getattr(place.storage, field) is not None
    }
    described = {"uri": place.uri, "storage": {**place.storage.model_dump(mode="json"), **secrets}}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.xrec.table.driver", what, name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TABLE_PLACE": json.dumps(described)},
        cwd=Path(__file__).parents[3],
    )


def _race(table: Table, name: str) -> None:
    for turn in range(5):
        epoch, committed = 0, False
        try:
            writer = table.take_over(name)
            epoch = writer.epoch
            writer.commit([file_of(table, turn, f"{name}-{turn}")])
            committed = True
        except LostTableError:
            pass
        print(json.dumps({"epoch": epoch, "committed": committed}), flush=True)  # noqa: T201


def _commit(table: Table, name: str) -> None:
    writer = table.take_over(name)
    users: list[str] = []
    while True:
        user = f"{name}-{len(users)}"
        try:
            writer.commit([file_of(table, len(users), user)])
        except LostTableError as error:
            print(json.dumps({"users": users, "last": user, "error": str(error)}), flush=True)  # noqa: T201
            return
        users.append(user)
        print(json.dumps({"version": writer.version}), flush=True)  # noqa: T201


if __name__ == "__main__":
    described = json.loads(os.environ["TABLE_PLACE"])
    opened = Table.open(described["uri"], storage=StorageConfig(**described["storage"]))
    {"race": _race, "commit": _commit}[sys.argv[1]](opened, sys.argv[2])

"""A driver in a process of its own, which a test can stop, wake and race: its program and start.

    python -m tests.xrec.table.driver race NAME
    python -m tests.xrec.table.driver commit NAME
    python -m tests.xrec.table.driver run NAME

`race` takes the table over five times and commits one file each time. `commit` takes it over once,
says so, and commits a file again and again until it is refused. `run` does what is left of
`NUM_BUCKETS` buckets, takes the table over again when it lost it, and ends when all is done: it
commits some rows as failed, replaces them in a retry, and compacts and vacuums now and then. The
place of the table is JSON in the variable TABLE_PLACE, because it may have a secret.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import file_of
from xrec.config.shared import StorageConfig
from xrec.errors import LostTableError, StaleRemovalError
from xrec.table import Snapshot, Table, Writer

NUM_BUCKETS = 30


def start_driver(place: Place, what: str, name: str) -> "subprocess.Popen[str]":
    """Start the program; each line that it prints is JSON."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.xrec.table.driver", what, name],
        stdout=subprocess.PIPE,
        text=True,
        env=environment_of(place),
        cwd=Path(__file__).parents[3],
    )


def environment_of(place: Place) -> dict[str, str]:
    """The environment of a process that is to find the place by `place_here`."""
    secrets = {
        field: getattr(place.storage, field).get_secret_value()
        for field in ("access_key_id", "secret_access_key")
        if getattr(place.storage, field) is not None
    }
    described = {"uri": place.uri, "storage": {**place.storage.model_dump(mode="json"), **secrets}}
    return {**os.environ, "TABLE_PLACE": json.dumps(described)}


def place_here() -> Place:
    """The place that `environment_of` described to this process."""
    described = json.loads(os.environ["TABLE_PLACE"])
    return Place(described["uri"], StorageConfig(**described["storage"]))


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


def _run(table: Table, name: str) -> None:
    draw = random.Random(name)
    while True:
        try:
            if _do_what_is_left(table.take_over(name), draw):
                return
        except (LostTableError, StaleRemovalError):
            time.sleep(draw.random() * 3)  # else no driver gets anything done


def _do_what_is_left(writer: Writer, draw: random.Random) -> bool:
    """Work until all buckets are explained: True; a commit that is refused raises."""
    while True:
        snapshot = writer.snapshot()
        done = {status: _buckets(snapshot, status) for status in ("ok", "failed")}
        left = [b for b in range(NUM_BUCKETS) if b not in done["ok"] | done["failed"]]
        chance = draw.random()
        if chance < 0.05:
            writer.compact(group_by="bucket", target_bytes=4000)
        elif chance < 0.1:
            writer.vacuum()
        elif left and (chance < 0.7 or not done["failed"]):
            bucket = left[draw.randrange(min(4, len(left)))]
            status = draw.choice(["ok", "failed"])
            writer.commit([file_of(writer, bucket, *users_in(bucket), status=status)])
        elif done["failed"]:
            _retry(writer, snapshot, draw.choice(sorted(done["failed"])))
        else:
            return True


def _retry(writer: Writer, snapshot: Snapshot, bucket: int) -> None:
    """Explain the failed rows of a bucket; the other rows of their file fail again."""
    (path,) = snapshot.files([("status", "=", "failed"), ("bucket", "=", bucket)])[
        "path"
    ].to_pylist()
    adds = [
        file_of(writer, other, *users_in(other), status="ok" if other == bucket else "failed")
        for other in _buckets_in(snapshot, path)
    ]
    writer.commit(adds, [path])


def _buckets_in(snapshot: Snapshot, path: str) -> set[int]:
    return set(snapshot.dataset(paths=[path]).to_table()["bucket"].to_pylist())


def _buckets(snapshot: Snapshot, status: str) -> set[int]:
    return set(snapshot.dataset([("status", "=", status)]).to_table()["bucket"].to_pylist())


def users_in(bucket: int) -> list[str]:
    """The users of a bucket, which a finished run has once each."""
    return [f"{bucket:03d}-{number}" for number in range(3)]


if __name__ == "__main__":
    there = place_here()
    opened = Table.open(there.uri, storage=there.storage)
    {"race": _race, "commit": _commit, "run": _run}[sys.argv[1]](opened, sys.argv[2])

"""A driver of a toy run in a process of its own, which a test can stop, wake, kill and double.

    python -m tests.xrec.bulk.chaos_driver FOLDER NAME [REASON ...]

It takes the run over whoever is at work, retries rows that failed for the reasons, and ends when
all is done; when another driver takes the run over, it takes it back a little later. Its actor is
in the same process. The place of the output is in the environment (tests.xrec.table.driver).
"""

import random
import subprocess
import sys
import time
from pathlib import Path

from tests.xrec.bulk.toy_run import Toy, toy_run
from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import environment_of, place_here
from xrec.bulk import ledger
from xrec.errors import LostTableError

ITEMS = ("a", "odd-1", "b", "kill-2", "c")


def planned(place: Place, folder: Path) -> Toy:
    """The run; it is planned by whoever is first."""
    return toy_run(place, folder, ITEMS, num_users=40, rows_per_chunk=5)


def start_driver(place: Place, folder: Path, name: str, *reasons: str) -> "subprocess.Popen[bytes]":
    """Start the program; what it prints is in a file of the folder."""
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.xrec.bulk.chaos_driver", str(folder), name, *reasons],
            stdout=log,
            stderr=log,
            env=environment_of(place),
            cwd=Path(__file__).parents[3],
        )


def _main(folder: Path, name: str, reasons: list[str]) -> None:
    ledger.COMMIT_SECONDS = 0.05
    draw = random.Random(name)
    toy = planned(place_here(), folder)
    while True:
        pool = toy.pool(before=lambda work: time.sleep(draw.random() * 0.1))
        try:
            toy.drive(pool, holder=name, retry=reasons, take_over=True)
            return
        except LostTableError:
            time.sleep(draw.random() * 3)  # else no driver gets anything done


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])

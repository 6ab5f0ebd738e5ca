"""A command on a quiet machine, and beside processes that use a core each.

    python -m benchmarks.busy run --folder /tmp/busy xrec run configs/sample.yaml workspace={}

`{}` becomes an empty folder for each run, or a copy of `--copy`. `--other-root` is a checkout, with
a .venv of its own, whose `xrec` takes turns with this one's. `share` is the quiet time divided by
the busy time: beside two busy processes on two cores, fair processes keep 0.5.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report import Record, Rounds, command_line, summary, take_turns, write_tables

app = command_line(__doc__)


@app.command()
def run(
    command: Annotated[list[str], typer.Argument(help="The command, its options after --.")],
    folder: Annotated[Path, typer.Option(help="Where the runs' folders and the table go.")],
    copy: Annotated[
        Path | None, typer.Option(help="A folder of which each run has a copy.")
    ] = None,
    other_root: Annotated[Path | None, typer.Option(help="Another checkout.")] = None,
    processes: Annotated[int, typer.Option(help="Busy processes.")] = 2,
    rounds: Rounds = 1,
) -> None:
    """Time the command quiet and busy, in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    roots = {"ours": Path.cwd()} | ({"other": other_root.resolve()} if other_root else {})
    contestants = {
        f"{name}, {state}": partial(_run, command, root, folder, copy, num)
        for name, root in roots.items()
        for state, num in (("quiet", 0), ("busy", processes))
    }
    rows = take_turns("busy", contestants, rounds, folder)
    write_tables(folder, "busy", {" ".join(command): summary(rows, "seconds", list(contestants))})


def _run(command: list[str], root: Path, folder: Path, copy: Path | None, num_busy: int) -> Record:
    work = folder / "run"
    shutil.rmtree(work, ignore_errors=True)
    if copy is not None:
        shutil.copytree(copy, work)
    program = str(root / ".venv/bin" / command[0])
    arguments = [part.replace("{}", str(work)) for part in command[1:]]
    with (folder / "output.txt").open("a") as output, _busy(num_busy):
        start = time.monotonic()
        subprocess.run([program, *arguments], cwd=root, stdout=output, stderr=output, check=True)
        return {"seconds": round(time.monotonic() - start, 1)}


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep `number` processes busy inside the `with` block."""
    with ExitStack() as stack:
        for _ in range(number):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


if __name__ == "__main__":
    app()

"""The program, run in the test's own process, or as a user runs it in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from xrec.cli.main import app
from xrec.errors import XRecError


def xrec(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `xrec ARGUMENTS`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> XRecError:
    """The error that ends `xrec ARGUMENTS`, which prints its message and exits with its code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    error: BaseException | None = result.exception
    while error is not None and not isinstance(error, XRecError):
        error = error.__cause__ or error.__context__
    assert error is not None, result.output
    assert result.exit_code == error.exit_code
    assert f"error: {error}" in result.stderr
    assert "Traceback" not in result.stderr
    return error


def said(*arguments: object) -> str:
    """Standard output of `xrec ARGUMENTS`, which must succeed."""
    code, out, err = xrec(*arguments)
    assert code == 0, err
    return out


def python(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` in a new process, with `variables` added to the environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def words_of(job: str) -> tuple[str, ...]:
    """The words of a job's command, after `xrec`."""
    return ("lab", job) if job == "compare" else (job,)

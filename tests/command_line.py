"""The program, run in the test's own process."""

from typer.testing import CliRunner

from xrec.cli.main import app


def xrec(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `xrec ARGUMENTS`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr

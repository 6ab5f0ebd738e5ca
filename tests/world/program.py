"""The program, run in the test's process or in a new one, and nginx in front of an endpoint."""

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from xrec.cli.main import app
from xrec.errors import XRecError

NGINX_CONFIG = Path(__file__).parents[2] / "infra" / "nginx" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_TEMP_PATHS = "".join(
    f"{kind}_temp_path temp;\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def xrec(*arguments: object) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `xrec ARGUMENTS`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> XRecError:
    """Return the error that ends `xrec ARGUMENTS`, which prints it and exits with its code."""
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
    """Return the standard output of `xrec ARGUMENTS`, which must succeed."""
    code, out, err = xrec(*arguments)
    assert code == 0, err
    return out


def words_of(job: str) -> tuple[str, ...]:
    """Return the words of a job's command, after `xrec`."""
    return ("lab", job) if job == "compare" else (job,)


def wait_until(is_so: Callable[[], object], seconds: float = 120) -> None:
    """Return as soon as `is_so` returns something true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


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


@contextmanager
def driver(
    command: str,
    config: Path,
    log: Path,
    *overrides: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `xrec COMMAND CONFIG OVERRIDES` in a new process, which is killed after the `with`."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    program = str(Path(sys.executable).with_name("xrec"))
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [program, *command.split(), str(config), *overrides],
            stdout=output,
            stderr=output,
            env={**kept, **(variables or {})},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def at_message(text: str, action: Callable[[], object]) -> Iterator[list[str]]:
    """Call `action` when this process first logs a message with `text` in it.

    Yields all messages that are logged in the block, which grow.
    """
    messages: list[str] = []

    def look(record: logging.LogRecord) -> None:
        is_first = text not in "".join(messages)
        messages.append(record.getMessage())
        if is_first and text in messages[-1]:
            action()

    logger, handler = logging.getLogger("xrec"), logging.Handler()
    level, handler.emit = logger.level, look  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert text in "".join(messages), f"nothing was logged with {text!r}"


def config_in(folder: Path, **values: str) -> str:
    """Return nginx's config with its files in `folder` and other values of some directives."""
    text = NGINX_CONFIG.read_text().replace("/var/log/nginx", str(folder))
    text = text.replace("http {", f"http {{\n{_TEMP_PATHS}", 1)
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^(\s+{name}) .*?;", rf"\1 {value};", text)
        assert count, f"no {name} in {NGINX_CONFIG}"
    return text


@contextmanager
def nginx_before(upstream: int, **values: str) -> Iterator[str]:
    """Run nginx without TLS in front of a port, and yield its URL; `values` are of directives."""
    assert NGINX is not None
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listening:
        folder, port = Path(name), listening.getsockname()[1]
        folder.chmod(0o755)  # workers run as another user
        text = config_in(folder, listen=f"127.0.0.1:{port}", **values)
        text = re.sub(r"(?m)^\s+ssl_.*\n", "", text)
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
        (folder / "nginx.conf").write_text(text)
        command = [NGINX, "-p", name, "-e", "stderr", "-c", str(folder / "nginx.conf")]
        handed = listening.fileno()  # nginx takes over the socket, as in an upgrade
        process = subprocess.Popen(
            [*command, "-g", f"daemon off; pid {name}/pid;"],
            env={**os.environ, "NGINX": f"{handed};"},
            pass_fds=[handed],
        )
        listening.close()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)

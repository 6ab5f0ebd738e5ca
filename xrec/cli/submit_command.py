"""`xrec submit`: run a job, or all jobs of a project, on a Ray cluster."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrec.cli.reporting import FAILED, AsJson
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from xrec.cluster.submit import JobServer
    from xrec.config import JobConfig

_OF_A_PROJECT = ("run", "refresh", "forget")


def submit(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="JOB CONFIG ...", help="An xrec command to run.")
    ],
    key: Annotated[
        str, typer.Option(help="Submit once: follow a job with this key, skip one that succeeded.")
    ] = "",
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's address."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    packages: Annotated[
        str | None, typer.Option(metavar="FILE", help="Requirements to install on the nodes.")
    ] = None,
    driver: Annotated[
        str | None,
        typer.Option(
            metavar="RESOURCE", help="Custom resource of the driver's node, not the head."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster.

    Sends code, config, and the variables AWS_*, HF_TOKEN, HF_ENDPOINT, MLFLOW_* and WANDB_*, but no
    data: artifacts must be at s3:// URIs or on a shared disk. Follows the log; Ctrl-C leaves the
    job running. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN for a cluster that requires a token.

    In:   a job, run, refresh or forget with its arguments and options; the cluster's --address,
          http://host:8265 (default: this machine's)
    Out:  the job's log and exit code; with --json its result, and the log on standard error

    Examples:
      xrec submit evaluate configs/yelp.yaml workspace=s3://my-bucket/yelp --address http://HEAD:8265
      xrec submit --key 2026-11-28 refresh configs/yelp.yaml workspace=s3://my-bucket/yelp
    """
    name, given = _parsed(context, command)
    config = _checked(name, given)
    from xrec.cluster.submit import JobServer, job_id

    logging.getLogger("ray").setLevel(logging.WARNING)  # importing it sets another level
    server, path = JobServer(address), given["config_path"]
    place = command.index(path)
    words = [*command[:place], Path(path).name, *command[place + 1 :]]
    json_too = ["--json"] if as_json and "as_json" in given else []
    job, status = (Path(path), [*words, *json_too], packages, driver), None
    if key:
        submission_id, status = server.submit_once(job_id(name, config.workspace, key), *job)
    else:
        submission_id = server.submit(*job)
    event = f"exists already, {status.lower()}:" if status else "submitted as"
    typer.echo(f"{name} {event} {submission_id}", err=True)
    code, state = 0, status or "PENDING"
    if follow and status != "SUCCEEDED":
        end = _follow(submission_id, server, to_stderr=as_json)
        state = end.status
        if state != "SUCCEEDED":
            code = max(end.driver_exit_code or FAILED, FAILED)  # negative after a signal
            message = (end.message or "no message").split(", last available logs")[0]
            typer.echo(f"error: job {submission_id} ended as {state}: {message}", err=True)
    if as_json:
        ended = {"exit_code": code, "result": server.result(submission_id)} if follow else {}
        submitted = {"job": name, "submission_id": submission_id, "state": state}
        typer.echo(json.dumps({**submitted, **ended}))
    raise typer.Exit(code)


def _parsed(context: typer.Context, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the submitted command's name, and its arguments and options as it parses them."""
    from xrec.config import CONFIG_TYPES

    assert context.parent is not None
    found: Any = context.parent.command
    left = list(words)
    while left and hasattr(found, "commands"):
        found = found.commands.get(name := left.pop(0))
    if getattr(found, "name", None) not in (*_OF_A_PROJECT, *CONFIG_TYPES):
        known = ", ".join((*_OF_A_PROJECT, *CONFIG_TYPES))
        raise ConfigError(
            f"unknown job {words[0]!r}; expected one of {known}", code="unknown_job", saw=words[0]
        )
    return name, found.make_context(name, left, parent=context.parent).params


def _checked(name: str, given: dict[str, Any]) -> "JobConfig":
    """Return the config of the first job; raises ConfigError if another machine cannot use it."""
    from xrec.config import CONFIG_TYPES, SHARED_DISKS, absolute, load_config, read_project
    from xrec.jobs.pipeline import chosen_configs

    path, overrides, users = given["config_path"], given["overrides"] or [], given.get("users")
    if name in CONFIG_TYPES:
        config = load_config(CONFIG_TYPES[name], path, overrides, SHARED_DISKS)
    else:
        project = read_project(path, overrides, SHARED_DISKS)
        first, last = given.get("first"), given.get("last")
        config = next(iter(chosen_configs(project, first, last).values()))
    if users and absolute(users) != users:
        raise ConfigError(
            f"--users {users}: a relative path; give an s3:// URI, or an absolute path on a disk "
            "that all nodes share",
            code="relative_path",
            key="--users",
            saw=users,
        )
    if secret := [text.partition("=")[0] for text in overrides if "access_key" in text]:
        raise ConfigError(
            f"{', '.join(secret)}: a secret would be visible in the cluster's list of jobs; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, which are sent with the job",
            code="secret_in_command",
            key=secret[0],
        )
    return config


def _follow(submission_id: str, server: "JobServer", *, to_stderr: bool) -> "JobDetails":
    try:
        return server.follow(submission_id, lambda text: typer.echo(text, nl=False, err=to_stderr))
    except KeyboardInterrupt:
        job = f"{submission_id} --address {server.url}"
        typer.echo(
            f"{submission_id} is still running. Follow it: ray job logs --follow {job}\n"
            f"Stop it: ray job stop {job}",
            err=True,
        )
        raise

"""`xrec submit`: run a job, or all jobs of a project, on a Ray cluster."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.reporting import FAILED, AsJson, ConfigPath, Overrides
from xrec.cli.run_command import First, Last, Redo, Train
from xrec.cli.texts_command import RETENTION_HOURS, Later, Retention, Users
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from xrec.cluster.submit import JobServer
    from xrec.config import JobConfig

_OF_A_PROJECT = ("run", "refresh", "forget")


def submit(
    job_name: Annotated[
        str, typer.Argument(metavar="JOB", help="A job's name, run, refresh, or forget.")
    ],
    config_path: ConfigPath,
    overrides: Overrides = None,
    key: Annotated[
        str, typer.Option(help="Submit once: follow a job of this key, skip one that succeeded.")
    ] = "",
    first: First = None,
    last: Last = None,
    redo: Redo = False,
    train: Train = False,
    users: Users = None,
    retention: Retention = RETENTION_HOURS,
    later: Later = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's address."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    packages: Annotated[
        str | None, typer.Option(metavar="FILE", help="Requirements to install on the nodes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster.

    Sends code, config, and the variables AWS_*, HF_TOKEN, HF_ENDPOINT, MLFLOW_* and WANDB_*, but no
    data: artifacts must be at s3:// URIs or on a shared disk. Follows the log; after Ctrl-C the job
    goes on. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN for a cluster that requires a token.

    In:   JOB and CONFIG; the cluster's --address, http://host:8265 (default: this machine's)
    Out:  the job's log and exit code; with --json its result, and the log on standard error

    Examples:
      xrec submit evaluate configs/yelp.yaml workspace=s3://my-bucket/yelp --address http://HEAD:8265
      xrec submit --key 2026-11-28 refresh configs/yelp.yaml workspace=s3://my-bucket/yelp
    """
    given = overrides or []
    hours = None if retention == RETENTION_HOURS else f"{retention:g}"
    own: Mapping[str, Mapping[str, str | bool | None]] = {
        "run": {"--from": first, "--until": last, "--redo": redo},
        "refresh": {"--train": train},
        "forget": {"--users": users, "--retention": hours, "--later": later},
    }
    configs = _configs(job_name, config_path, given, first, last)
    _refuse_secrets(given)
    options = _options(job_name, own)
    from xrec.cluster.submit import JobServer, check_shared_paths, job_id

    for config in configs:
        check_shared_paths(config, **({"users": users} if users else {}))
    logging.getLogger("ray").setLevel(logging.WARNING)  # its import sets another level
    server = JobServer(address)
    name = ("lab", job_name) if job_name == "compare" else (job_name,)
    json_too = ["--json"] if as_json and job_name != "serve" else []
    command = [*name, Path(config_path).name, *given, *options, *json_too]
    job, status = (Path(config_path), command, packages), None
    if key:
        prefix = job_id(job_name, configs[0].workspace, key)
        submission_id, status = server.submit_once(prefix, *job)
    else:
        submission_id = server.submit(*job)
    event = f"exists already, {status.lower()}:" if status else "submitted as"
    typer.echo(f"{job_name} {event} {submission_id}", err=True)
    code, state = 0, status or "PENDING"
    if follow and status != "SUCCEEDED":
        end = _follow(submission_id, server, to_stderr=as_json)
        state = end.status
        if state != "SUCCEEDED":
            code = max(end.driver_exit_code or FAILED, FAILED)  # a signal is below 0
            message = (end.message or "no message").split(", last available logs")[0]
            typer.echo(f"error: job {submission_id} ended as {state}: {message}", err=True)
    if as_json:
        ended = {"exit_code": code, "result": server.result(submission_id)} if follow else {}
        submitted = {"job": job_name, "submission_id": submission_id, "state": state}
        typer.echo(json.dumps({**submitted, **ended}))
    raise typer.Exit(code)


def _configs(
    name: str, path: str, overrides: list[str], first: str | None, last: str | None
) -> "list[JobConfig]":
    """Return the configs of the submitted jobs; raises ConfigError if they are invalid."""
    from xrec.config import CONFIG_TYPES, load_config, read_project
    from xrec.jobs.pipeline import chosen_configs

    if name in _OF_A_PROJECT:
        return list(chosen_configs(read_project(path, overrides), first, last).values())
    if name not in CONFIG_TYPES:
        known = ", ".join((*_OF_A_PROJECT, *CONFIG_TYPES))
        raise ConfigError(
            f"unknown job {name!r}; expected one of {known}", code="unknown_job", saw=name
        )
    return [load_config(CONFIG_TYPES[name], path, overrides)]


def _options(name: str, own: Mapping[str, Mapping[str, str | bool | None]]) -> list[str]:
    """Return the given options as words; raises ConfigError for one of another command."""
    words: list[str] = []
    for command, options in own.items():
        for option, value in options.items():
            if value and command != name:
                raise ConfigError(
                    f"{option} is an option of xrec submit {command}, saw {name}",
                    code="option_of_another_job",
                    key=option,
                    saw=name,
                )
            if value:
                words += [option] if value is True else [option, str(value)]
    return words


def _refuse_secrets(overrides: list[str]) -> None:
    if secret := [text.partition("=")[0] for text in overrides if "access_key" in text]:
        raise ConfigError(
            f"{', '.join(secret)}: a secret would show in the cluster's list of jobs; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, which are sent with the job",
            code="secret_in_command",
            key=secret[0],
        )


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

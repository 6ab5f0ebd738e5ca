"""`xrec submit`: a job, or all of a project, run on a Ray cluster by its Jobs API."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.reporting import FAILED, AsJson, ConfigPath, Overrides
from xrec.cli.run_command import First, Last, Redo, Train
from xrec.cli.texts_command import Later, Retention, Users
from xrec.errors import ConfigError
from xrec.jobs.catalogue import COMPARE, SERVE, chosen_configs, job_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray.job_submission import JobDetails

    from xrec.cluster.submit import JobServer
    from xrec.config import JobConfig

HELP = """Run a job on a Ray cluster; "run", "refresh" and "forget" are of a whole project.

Sends code and config, follows the log, and ends as the job ends. After Ctrl-C the job goes on: see
ray job. Artifacts must lie where every node finds them: s3://, or an absolute path on a disk that
all nodes share. AWS_* variables and HF_TOKEN of this shell go with the job, data does not. For a
cluster with token authentication set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH; see docs/.

\b
In:   JOB, run, refresh or forget; CONFIG; the cluster's --address, http://host:8265; without it
      this machine's
Out:  the job's log on standard output, with --json on standard error, and how it ended as one line
      of JSON with the job's own result; the exit code of the job

\b
Example:
  xrec submit evaluate configs/yelp.yaml workspace=s3://my-bucket/yelp --address http://HEAD:8265
  xrec submit run configs/yelp.yaml workspace=s3://my-bucket/yelp --until train-adapter
  xrec submit --key 2026-11-28 refresh configs/yelp.yaml workspace=s3://my-bucket/yelp
  xrec submit forget configs/yelp.yaml --users s3://my-bucket/leaving.txt
"""

_OF_A_PROJECT = ("run", "refresh", "forget")
_JOB_OF = {"--from": "run", "--until": "run", "--redo": "run", "--train": "refresh"}
_JOB_OF |= {"--users": "forget", "--retention": "forget", "--later": "forget"}


def submit(
    job_name: Annotated[
        str, typer.Argument(metavar="JOB", help="The job's name, run, refresh, or forget.")
    ],
    config_path: ConfigPath,
    overrides: Overrides = None,
    key: Annotated[
        str,
        typer.Option(help="Do it once: a job of this key is followed, or left if it succeeded."),
    ] = "",
    first: First = None,
    last: Last = None,
    redo: Redo = False,
    train: Train = False,
    users: Users = None,
    retention: Retention = 168,
    later: Later = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's server."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    packages: Annotated[
        str | None, typer.Option(metavar="FILE", help="Packages to install, a requirements file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    given = overrides or []
    chosen = {"--from": first, "--until": last, "--redo": redo, "--train": train, "--users": users}
    chosen |= {"--retention": None if retention == 168 else f"{retention:g}", "--later": later}
    asked = [word for name, value in chosen.items() if value for word in (name, value)]
    options = [str(word) for word in asked if word is not True]
    configs = _configs(job_name, config_path, given, first, last)
    _check(job_name, given, options)
    from xrec.cluster.submit import JobServer, check_shared_paths, job_id

    for config in configs:
        check_shared_paths(config, **({"users": users} if users else {}))
    logging.getLogger("ray").setLevel(logging.WARNING)  # its import sets the level of all lines
    server = JobServer(address)
    words = ("lab", job_name) if job_name == COMPARE.name else (job_name,)
    json_too = ["--json"] if as_json and job_name != SERVE.name else []
    command = [*words, Path(config_path).name, *given, *options, *json_too]
    sent, status = (Path(config_path), command, packages), None
    if key:
        name = job_id(job_name, configs[0].workspace, key)
        submission_id, status = server.submit_once(name, *sent)
    else:
        submission_id = server.submit(*sent)
    said = f"is there already, {status.lower()}:" if status else "submitted as"
    typer.echo(f"{job_name} {said} {submission_id}", err=True)
    code, told = 0, {"job": job_name, "submission_id": submission_id, "state": status or "PENDING"}
    if follow and status != "SUCCEEDED":
        end = _follow(submission_id, server, to_stderr=as_json)
        told["state"] = end.status
        if end.status != "SUCCEEDED":
            code = max(end.driver_exit_code or FAILED, FAILED)  # below 0 it is a signal
            message = (end.message or "no message").split(", last available logs")[0]
            typer.echo(f"error: job {submission_id} ended as {end.status}: {message}", err=True)
    if as_json:
        ended = {"exit_code": code, "result": server.result(submission_id)} if follow else {}
        typer.echo(json.dumps({**told, **ended}))
    raise typer.Exit(code)


def _configs(
    name: str, path: str, overrides: list[str], first: str | None, last: str | None
) -> "Sequence[JobConfig]":
    if name not in _OF_A_PROJECT:
        return [job_named(name).load_config(path, overrides)]
    from xrec.config import read_project

    return list(chosen_configs(read_project(path, overrides), first, last).values())


def _check(name: str, overrides: list[str], run_options: list[str]) -> None:
    """Raise ConfigError for options of another job, and for a secret, which is listed."""
    for option in run_options:
        if (job := _JOB_OF.get(option, name)) != name:
            raise ConfigError(
                f"{option} goes with xrec submit {job}, saw {name}",
                code="option_of_another_job",
                key=option,
                saw=name,
            )
    if secret := [text.partition("=")[0] for text in overrides if "access_key" in text]:
        raise ConfigError(
            f"{', '.join(secret)}: a secret would be seen in the cluster's list of jobs; give "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, which go with the job",
            code="secret_in_command",
            key=secret[0],
        )


def _follow(submission_id: str, server: "JobServer", *, to_stderr: bool) -> "JobDetails":
    try:
        return server.follow(submission_id, lambda text: typer.echo(text, nl=False, err=to_stderr))
    except KeyboardInterrupt:
        end = f"{submission_id} --address {server.url}"
        typer.echo(
            f"{submission_id} goes on; follow it with: ray job logs --follow {end}; stop it with: "
            f"ray job stop {end}",
            err=True,
        )
        raise

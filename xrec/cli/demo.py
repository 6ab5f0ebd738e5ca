"""The demo: every job once, on the sample, in one workspace and one Ray cluster; then what came out of it."""

import logging
import sys
import time
from pathlib import Path

import typer

import xrec
from cluster.connect import ensure_ray
from xrec.cli.job import (
    BACKFILL,
    BUILD_SAMPLE_LLM,
    EVALUATE,
    PREPARE,
    PRETRAIN_GRAPH,
    TRAIN_ADAPTER,
    Job,
)
from xrec.config.evaluate import EvaluateConfig
from xrec.config.shared import JobConfig, RayConfig
from xrec.errors import ConfigError
from xrec.evaluate import REPORT, example_lines, read_evaluation, summary_lines
from xrec.storage import open_location

logger = logging.getLogger("xrec")

_JOBS = (PREPARE, BUILD_SAMPLE_LLM, PRETRAIN_GRAPH, TRAIN_ADAPTER, BACKFILL, EVALUATE)
_NUM_EXAMPLES = 10


def run_demo(workspace: str) -> None:
    """Run the six jobs of configs/sample.yaml in `workspace` (folder or s3://), then print examples, metrics and the report's place."""
    configs = [(job, _config(job, workspace)) for job in _JOBS]
    with ensure_ray(RayConfig()):
        for number, (job, config) in enumerate(configs, start=1):
            started = time.monotonic()
            typer.echo(
                f"[{number}/{len(configs)}] xrec {job.name} {_config_path().relative_to(_root())}",
                err=True,
            )
            job.run(config)
            typer.echo(
                f"[{number}/{len(configs)}] done in {time.monotonic() - started:.0f} s", err=True
            )
    _, config = configs[-1]
    assert isinstance(config, EvaluateConfig)
    _print_results(config)


def _print_results(config: EvaluateConfig) -> None:
    output = open_location(config.artifact("evaluation"), config.storage)
    pairs, metrics = read_evaluation(output)
    lines = [
        "",
        *example_lines(pairs[:: max(1, len(pairs) // _NUM_EXAMPLES)], _NUM_EXAMPLES),
        "",
        *summary_lines(metrics),
        "",
    ]
    report = output / REPORT
    sys.stdout.write(
        "\n".join(
            [
                *lines,
                f"report: {report.shared_uri}",
                "",
            ]
        )
    )


def _config(job: Job, workspace: str) -> JobConfig:
    return job.load_config(str(_config_path()), [f"workspace={workspace}"])


def _config_path() -> Path:
    path = _root() / "configs" / "sample.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{path}: not there; the demo runs from a checkout of xrec (git clone, then make demo)"
        )
    return path


def _root() -> Path:
    return Path(xrec.__file__).parents[1]

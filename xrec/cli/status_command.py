"""`xrec status`: the artifacts of a project."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from xrec.cli.printing import scalars, text_table
from xrec.cli.reporting import ConfigPath, reporting
from xrec.cli.run_command import ProjectOverrides

if TYPE_CHECKING:
    from jobs.status import ArtifactStatus

HELP = """The artifacts of a project: what is there, and whether it is up to date.

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
    "annotations": ("aspects_in_review",),
    "llm": ("loss",),
    "graph": ("test.recall@20", "test.ndcg@20"),
    "aspects": ("ndcg@10",),
    "adapter": ("validation_loss",),
    "evaluation": ("personalization_gain", "aspect_accuracy"),
}
_MOST_COUNTS = 2


@reporting
def status(config_path: ConfigPath, overrides: ProjectOverrides = None) -> None:
    """Print jobs.status."""
    from jobs.status import project_status
    from xrec.config.project import read_project

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
    shown = "; ".join(filter(None, (", ".join(counts[:_MOST_COUNTS]), ", ".join(figures))))
    return (artifact.kind, artifact.state, made, size, shown or "-")

"""`xrec status`: the artifacts of a project."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from jobs.command.arguments import ConfigPath, Debug
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.run import ProjectOverrides
from xrec.cli.text_table import text_table

if TYPE_CHECKING:
    from jobs.status import ArtifactStatus

HELP = """The artifacts of a project: what is there, and whether it is up to date.

Stale means that the settings or inputs are no longer those that the artifact was made from; the
lines below the table say what differs. Nothing is made, and no cluster is started.

\b
In:   CONFIG; overrides are shared keys, or begin with a job's name
Out:  a line for each artifact: state, when and from what it was made, size, main metrics, rows

\b
Example:
  xrec status configs/yelp.yaml workspace=s3://my-bucket/yelp
"""

_HEADER = ("artifact", "state", "made", "from", "size", "rows; figures")
_MOST_INPUTS = 3


def status(
    config_path: ConfigPath, overrides: ProjectOverrides = None, debug: Debug = False
) -> None:
    """Run jobs.status."""
    configure_logging(debug)
    with exit_codes(debug):
        from jobs.status import project_status
        from xrec.config.project import read_project

        artifacts = project_status(read_project(config_path, overrides or []))
        typer.echo(
            text_table(_HEADER, [_row(each, _nearest(each, artifacts)) for each in artifacts])
        )
        for line in _notes(artifacts):
            typer.echo(line)


def _row(artifact: "ArtifactStatus", inputs: list[str]) -> tuple[str, ...]:
    manifest = artifact.manifest
    if manifest is None:
        size = _size(artifact.num_bytes) if artifact.num_bytes else "-"
        return (artifact.kind, artifact.state, "-", "-", size, "-")
    made = datetime.fromisoformat(manifest.created_at).astimezone()
    return (
        artifact.kind,
        artifact.state,
        made.strftime("%Y-%m-%d %H:%M"),
        ", ".join(inputs) or "-",
        _size(artifact.num_bytes),
        "; ".join(filter(None, (artifact.rows, artifact.figures))) or "-",
    )


def _nearest(artifact: "ArtifactStatus", artifacts: "list[ArtifactStatus]") -> list[str]:
    """What the artifact was made from, without what these were made from in turn."""
    inputs = artifact.manifest.inputs if artifact.manifest else {}
    behind = {
        name
        for each in artifacts
        if each.kind in inputs and each.manifest
        for name in each.manifest.inputs
    }
    return [name for name in inputs if name not in behind][:_MOST_INPUTS]


def _notes(artifacts: "list[ArtifactStatus]") -> Iterator[str]:
    for artifact in artifacts:
        if artifact.notes:
            yield f"\n{artifact.kind} ({artifact.uri}): {artifact.state}"
            yield from (f"  {note}" for note in artifact.notes)


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

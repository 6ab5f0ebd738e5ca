"""The command `xrec lab compare`: `--blind-sheet` and `--answers` are keys of its config."""

from typing import Annotated

import typer

from jobs.catalogue import COMPARE
from xrec.cli.arguments import ConfigPath, DryRun, Overrides, keys_option
from xrec.cli.reporting import reporting
from xrec.cli.summary import show_config, summary

BlindSheet = Annotated[
    int | None,
    typer.Option(
        "--blind-sheet",
        metavar="N",
        min=1,
        help="Also write a page with N pairs for people as judges (blind_sheet.num_pairs).",
    ),
]
Answers = Annotated[
    list[str] | None,
    typer.Option(
        "--answers",
        metavar="FILE",
        help="Also read a file of answers to such a page (blind_sheet.answers); may be repeated.",
    ),
]


@reporting
def compare(
    config_path: ConfigPath,
    overrides: Overrides = None,
    blind_sheet: BlindSheet = None,
    answers: Answers = None,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option(COMPARE.name)] = False,
) -> None:
    """Run the job, or show its config."""
    given = [*(overrides or [])]
    if blind_sheet is not None:
        given.append(f"blind_sheet.num_pairs={blind_sheet}")
    if answers:
        given.append(f"blind_sheet.answers={_yaml_list(answers)}")
    config = COMPARE.load_config(config_path, given)
    if dry_run:
        show_config(config)
        return
    manifest = COMPARE.run(config)
    assert manifest is not None  # it has no limit
    typer.echo(summary(manifest, config.artifact(manifest.kind)))


def _yaml_list(names: list[str]) -> str:
    """The names as a list in YAML, each in single quotes."""
    quoted = ["'" + name.replace("'", "''") + "'" for name in names]
    return f"[{', '.join(quoted)}]"

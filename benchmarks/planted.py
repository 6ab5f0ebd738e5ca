"""The yardstick of the adapter: does the collaborative signal reach the text?

In the sample's town a user's taste is planted: it shows in who visits what, and no text tells it.
The right explanation names the aspect of the place that the user likes most. Each variant is
trained, and then scored on pairs that training never saw:

\b
  unseen pairs  held-out pairs of users whose other pairs were trained on
  unseen users  pairs of users of whom no pair was trained on; the graph knows their visits

\b
  projected, direct, none
                the graph's vectors, by each rule of injection
  random        a fixed random vector for each user and item instead of the graph's
  constant      the same vector for all users and items: a learned constant soft prompt, which is
                the baseline to beat
  text-favourite
                no adapter; the profile states the favourite in words that the language model was
                taught. It shows what text could do: not every place has the favourite

Aspect accuracy is the share of greedy texts that name the right aspect and no other. NLL is the
reference's, in nats a token. Both are measured with the user's own vector and with another user's.
The seed is that of initialization, order, random vectors and the choice of the unseen users. There
is one process and no Ray; a variant and seed take about a minute. Each result is a line of
results.jsonl in --output, and is not run again; planted.md and planted.json are made of that file.

\b
Example, after prepare, build-sample-llm and pretrain-graph of configs/sample.yaml:
  python -m benchmarks.planted
  python -m benchmarks.planted training.learning_rate.peak=3e-3 --variant projected
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.planted_data import Town, read_town
from benchmarks.planted_report import Report
from benchmarks.planted_variants import VARIANTS, configured, run_variant
from benchmarks.report import Record, Results, write_tables
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.project import load_config
from xrec.storage import fingerprint_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_DEFAULT_CONFIG = Path("configs/sample.yaml")


@app.command(help=__doc__)
def planted(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="section.key=value of the config; other settings get rows of their own."
        ),
    ] = None,
    workspace: Annotated[
        str, typer.Option(help="URI with dataset, graph and llm of the sample.")
    ] = "workspace/sample",
    config: Annotated[Path, typer.Option(help="Project file.")] = _DEFAULT_CONFIG,
    variant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(VARIANTS)}; by default all.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; by default 0, 1 and 2.")] = None,
    unseen_share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the users that training never sees.")
    ] = 0.2,
    max_scored: Annotated[
        int, typer.Option(min=2, help="Most pairs of each kind that a seed scores.")
    ] = 300,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and the table.")] = Path(
        "workspace/benchmarks/planted"
    ),
    report: Annotated[
        bool, typer.Option(help="Run nothing; make the table of the results so far.")
    ] = False,
) -> None:
    """Run what has no result yet, then print the report."""
    torch.set_num_threads(threads)
    results = Results(output)
    if not report:
        arguments = [f"workspace={workspace}", *(overrides or [])]
        settings = load_config(TrainAdapterConfig, config, arguments)
        town = read_town(settings)
        for name in variant or VARIANTS:
            for number in seed or (0, 1, 2):
                about = {
                    "settings": " ".join(sorted(overrides or [])),
                    "variant": name,
                    "seed": number,
                }
                _run(town, settings, about, (unseen_share, max_scored), results)
    _show(results)


def _run(
    town: Town,
    config: TrainAdapterConfig,
    about: Record,
    sizes: tuple[float, int],
    results: Results,
) -> None:
    """Train and score the variant and seed that `about` names, unless the results hold it."""
    variant, seed = about["variant"], about["seed"]
    if variant not in VARIANTS:
        raise typer.BadParameter(f"no variant is named {variant!r}; known: {', '.join(VARIANTS)}")
    configured_for = configured(config, variant, seed)
    unseen_share, max_scored = sizes
    inputs = {**town.fingerprints, "unseen_share": unseen_share, "max_scored": max_scored}
    dumped = configured_for.model_dump(mode="json", include={"model", "prompt", "training"})
    run = fingerprint_of([inputs, variant, dumped])
    if any(record["run"] == run for record in results.read("planted")):
        return
    division = town.divide(seed=seed, unseen_share=unseen_share, max_scored=max_scored)
    found = run_variant(town, configured_for, division, variant)
    results.append({"kind": "planted", "run": run, "inputs": inputs, **about, **found})
    right = {
        kind: round(sum(scores["right"]) / len(scores["right"]), 3)
        for kind, scores in found["scores"].items()
    }
    losses = [round(row["validation_loss"], 4) for row in found["history"]]
    typer.echo(
        f"{variant}, seed {seed} {about['settings']}: aspect accuracy {right}, "
        f"validation losses {losses}, seconds {found['seconds']}"
    )


def _show(results: Results) -> None:
    records = results.read("planted")
    if not records:
        typer.echo("nothing was run yet")
        return
    typer.echo(write_tables(results.folder, "planted", {"Planted": Report.of(records).rows()}))


if __name__ == "__main__":
    app()

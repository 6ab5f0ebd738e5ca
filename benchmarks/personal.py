"""How specific and how personal are texts?

    python -m benchmarks.personal texts DATASET --contestant ours=URI --contestant ours=URI
    python -m benchmarks.personal texts DATASET --contestant "xrec=peer_texts.jsonl#xrec"
    python -m benchmarks.personal likelihood --contestant ours=WORKSPACE --contestant ours=WORKSPACE

A contestant that is given several times has several seeds. Its texts are compared with the
references of the dataset's explained pairs, or the references are weighed by its model. What is
true of the item, whoever reads it, is not personal: the measures "within the item" compare with
other users of the same item only.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer

from benchmarks.personal_data import Pairs, Yardstick, read_texts
from benchmarks.personal_likelihood import (
    CROSSINGS,
    draw_couples,
    load_model_of,
    same_dataset,
    weigh,
)
from benchmarks.personal_report import Measure, Measures, differences, figures, wide
from benchmarks.report import (
    BENCHMARKS,
    LLM,
    SMOLLM2,
    Dtype,
    Output,
    Values,
    command_line,
    known,
    write_tables,
)
from xrec.checks import AspectNames
from xrec.config import LLMConfig, Split
from xrec.data import Dataset, read_dataset
from xrec.storage import open_location

app = command_line(__doc__)

_SPLITS: tuple[Split, ...] = get_args(Split)
Against = Annotated[
    list[str] | None, typer.Option(help="Contestants that the others are compared with.")
]
Splits = Annotated[list[str] | None, typer.Option(help="Splits of the pairs; by default test.")]
VocabularyFile = Annotated[
    Path | None, typer.Option(help="Aspects, one a line; by default the dataset's.")
]


@app.command()
def texts(
    dataset: Annotated[str, typer.Argument(help="URI of the dataset.")],
    contestant: Annotated[
        list[str] | None,
        typer.Option(help="NAME=URI of explanations, or NAME=FILE.jsonl#COLUMN; once a seed."),
    ] = None,
    against: Against = None,
    split: Splits = None,
    vocabulary: VocabularyFile = None,
    output: Output = BENCHMARKS / "personal",
) -> None:
    """Measure the texts, print the tables and write them to `output`.

    `Specificity` is the share of other pairs' references that a text is less like than its own
    (cosine of TF-IDF, ties half), also without the words of each item's title; `within the item`
    asks the same of the item's other references. `2 x 2` is the share of two users of one item
    whose two texts are nearer to their own references than crossed. Aspects are those that text and
    reference name. The references themselves, and each item's title and profile, are measured
    beside the contestants.
    """
    found = read_dataset(open_location(dataset))
    pairs = Pairs.of(found, _splits(split))
    yardstick = Yardstick(pairs, _finder(found, vocabulary))
    runs = {"references": [pairs.references], "title and profile": [pairs.descriptions]}
    for name, uris in _by_name(contestant or []).items():
        runs[name] = [read_texts(uri, pairs) for uri in uris]
    measured = {
        name: {
            **_over_seeds(yardstick.of_pairs, of_name, pairs.users),
            **_over_seeds(yardstick.of_couples, of_name, pairs.items_of(pairs.couples)),
        }
        for name, of_name in runs.items()
    }
    _write(output, "texts", measured, against or ["title and profile"])


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
    llm: LLM = SMOLLM2,
    dtype: Dtype = "float32",
    against: Against = None,
    split: Splits = None,
    crossing: Annotated[
        list[str] | None,
        typer.Option(help=f"What is crossed: {', '.join(CROSSINGS)}; by default each."),
    ] = None,
    max_couples: Annotated[int, typer.Option(min=1, help="Most couples to weigh.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws the couples.")] = 0,
    vocabulary: VocabularyFile = None,
    output: Output = BENCHMARKS / "personal",
) -> None:
    """Weigh the references of two users of one item, print the tables and write them to `output`.

    Each of the two references follows the own prompt, the prompt of the other user (`prompts`), and
    the own prompt with the other's vector, with the aspects that were chosen for the other, and
    with both. `2 x 2` is the share of couples whose references are likelier as they are than
    crossed; gains are in nats a token. Intervals draw items.
    """
    torch.set_num_threads(1)
    models, llm_config = _by_name(contestant), LLMConfig(model=llm, dtype=dtype)
    crossings = known(crossing, list(CROSSINGS), "crossing")
    dataset = same_dataset([uri for uris in models.values() for uri in uris])
    pairs, finder = Pairs.of(dataset, _splits(split)), _finder(dataset, vocabulary)
    couples = draw_couples(pairs, max_couples, seed)

    def weighed(uri: str) -> dict[str, Values]:
        return weigh(load_model_of(uri, llm_config), pairs, couples, finder, crossings)

    measured = {
        name: _over_seeds(weighed, uris, pairs.items_of(couples)) for name, uris in models.items()
    }
    _write(output, "likelihood", measured, against or [])


def _over_seeds(
    measure: Callable[[Any], dict[str, Values]], seeds: Sequence[Any], groups: Sequence[str]
) -> Measures:
    """The measures of a contestant's seeds; `groups` are what intervals draw."""
    found = [measure(each) for each in seeds]
    return {name: Measure(np.stack([each[name] for each in found]), groups) for name in found[0]}


def _write(
    output: Path, name: str, measured: Mapping[str, Measures], against: Sequence[str]
) -> None:
    for other in against:
        known([other], list(measured), "contestant")
    tables = {"figures": figures(measured), "differences": differences(measured, against)}
    write_tables(output, name, tables, wide)


def _splits(names: Sequence[str] | None) -> list[Split]:
    chosen = known(names or ["test"], _SPLITS, "split")
    return [split for split in _SPLITS if split in chosen]


def _finder(dataset: Dataset, vocabulary: Path | None) -> AspectNames | None:
    if vocabulary is not None:
        return AspectNames(vocabulary.read_text().splitlines())
    if dataset.aspects is None:
        return None
    return AspectNames(dataset.aspects["aspect"].to_pylist())


def _by_name(sources: Sequence[str]) -> dict[str, list[str]]:
    """Return the sources of each name, in their order."""
    found: dict[str, list[str]] = {}
    for source in sources:
        name, equals, uri = source.partition("=")
        if not (name and equals and uri):
            raise typer.BadParameter(f"{source!r}; expected NAME=URI, with # as --help says")
        found.setdefault(name, []).append(uri)
    return found


if __name__ == "__main__":
    app()

"""What chosen aspects, checks, second tries and evidence cost a backfill, in CPU time.

    python -m benchmarks.checks shop/xrec.yaml --without shop/adapter-without-aspects

All variants explain the same held-out pairs in this process, one after the other in each round, by
the adapter of the project file. `written` has its aspects in the prompt, and takes texts as they
come. `checked` is that with the file's `decoding.text`: checks, second try, fallback, evidence;
`checked once` is without the second try.
`without aspects` is written by another adapter, trained with `prompt.aspects=0`: what `written`
would be without the choice and without its words in the prompt.
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.report import Record, Results, markdown
from xrec.adapter.pairs import Pair
from xrec.backfill.identity import sources_of
from xrec.config.backfill import BackfillConfig
from xrec.config.decoding import DecodingConfig, TextConfig
from xrec.config.project import load_config
from xrec.data.dataset import held_out_pairs
from xrec.data.splits import drawn_pairs
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_PLAIN = TextConfig(retry_temperature=None, fallback="none")


@dataclasses.dataclass(frozen=True)
class Variant:
    """An explainer, and how it writes."""

    name: str
    explainer: Explainer
    decoding: DecodingConfig


@app.command(help=__doc__)
def checks(
    config_path: Annotated[Path, typer.Argument(help="A project file with prompt.aspects.")],
    without: Annotated[
        str | None, typer.Option(help="URI of an adapter whose prompt has no aspects.")
    ] = None,
    num_pairs: Annotated[int, typer.Option(min=2, help="Held-out pairs of a round.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="How often all variants run.")] = 3,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl.")] = Path(
        "workspace/benchmarks/checks"
    ),
) -> None:
    """Run the rounds, append each run to results.jsonl, and print the medians of the ratios."""
    torch.set_num_threads(1)
    config = load_config(BackfillConfig, config_path)
    variants = _variants(config, without)
    records: list[Record] = []
    for number in range(rounds):
        for variant in variants if number % 2 else variants[::-1]:
            record = {"round": number, "variant": variant.name, **_run(variant, num_pairs)}
            records.append(record)
            Results(output).append({"kind": "checks", **record})
            typer.echo(f"round {number}, {variant.name}: {record['cpu_seconds']:.1f} CPU s")
    typer.echo(markdown(_rows(records, [variant.name for variant in variants])))


def _variants(config: BackfillConfig, without: str | None) -> list[Variant]:
    plain = config.decoding.model_copy(update={"text": _PLAIN})
    ours = _explainer(config, config.artifact("adapter"))
    text = config.decoding.text.model_copy(update={"retry_temperature": None})
    once = config.decoding.model_copy(update={"text": text})
    found = [
        Variant("written", ours, plain),
        Variant("checked once", ours, once),
        Variant("checked", ours, config.decoding),
    ]
    if without is not None:
        found.insert(0, Variant("without aspects", _explainer(config, without), plain))
    return found


def _explainer(config: BackfillConfig, adapter: str) -> Explainer:
    sources = sources_of(config.model_copy(update={"adapter": adapter}))
    return load_explainer(sources, device=config.actors.device, engine=config.engine)


def _run(variant: Variant, num_pairs: int) -> Record:
    """CPU seconds of all work on the pairs after loading, those of choosing aspects, and tokens."""
    explainer = variant.explainer
    held_out = drawn_pairs(held_out_pairs(explainer.dataset, "test"), num_pairs, seed=0)
    pairs = [Pair(pair.user_index, pair.item_index) for pair in held_out]
    started = time.process_time()
    texts = explainer.pairs.texts_of(pairs)
    chosen = time.process_time()
    prompts = [explainer.pairs.prompt(pair, said) for pair, said in zip(pairs, texts, strict=True)]
    done = list(explainer.explain(prompts, texts, variant.decoding))
    ended = time.process_time()
    return {
        "num_pairs": len(pairs),
        "cpu_seconds": ended - started,
        "choosing_seconds": chosen - started,
        "num_prompt_tokens": sum(map(len, prompts)),
        "num_generated_tokens": sum(each.num_generated_tokens for each in done),
        "refused_share": sum(bool(each.refused) for each in done) / len(done),
    }


def _rows(records: list[Record], names: list[str]) -> list[Record]:
    """A row a variant: its medians, and its CPU time by the first one's of the same round."""
    first = {each["round"]: each for each in records if each["variant"] == names[0]}
    rows = []
    for name in names:
        own = [each for each in records if each["variant"] == name]
        ratios = [each["cpu_seconds"] / first[each["round"]]["cpu_seconds"] for each in own]
        medians = {
            key: round(statistics.median(each[key] for each in own), 3)
            for key in own[0]
            if key not in ("round", "variant")
        }
        shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        rows.append({"variant": name, **medians, f"by {names[0]}, each round": shown})
    return rows


if __name__ == "__main__":
    app()

"""What chosen aspects, checks, second tries and evidence cost a backfill, in CPU time.

    python -m benchmarks.checks shop/xrec.yaml --without shop/adapter-without-aspects

All variants explain the same held-out pairs in this process, one after the other in each round, by
the adapter of the project file. `written` has its aspects in the prompt, and takes texts as they
come. `checked` is that with the file's `decoding.text`: checks, second try, fallback, evidence;
`checked once` is without the second try.
`without aspects` is written by another adapter, trained with `prompt.aspects=0`: what `written`
would be without the choice and without its words in the prompt. The last column is CPU time by
that of the first variant.
"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.report import (
    BENCHMARKS,
    Output,
    Record,
    Rounds,
    command_line,
    summary,
    take_turns,
    write_tables,
)
from xrec.adapter.pairs import Pair
from xrec.config import BackfillConfig, DecodingConfig, TextConfig, load_config
from xrec.data import drawn_pairs, held_out_pairs
from xrec.generate.explainer import Explainer
from xrec.text.writers import load_explainer

app = command_line()

_PLAIN = TextConfig(retry_temperature=None, fallback="none")


@app.command(help=__doc__)
def checks(
    config_path: Annotated[Path, typer.Argument(help="A project file with prompt.aspects.")],
    without: Annotated[
        str | None, typer.Option(help="URI of an adapter whose prompt has no aspects.")
    ] = None,
    num_pairs: Annotated[int, typer.Option(min=2, help="Held-out pairs of a round.")] = 200,
    rounds: Rounds = 3,
    output: Output = BENCHMARKS / "checks",
) -> None:
    """Run the rounds, and print the medians."""
    torch.set_num_threads(1)
    variants = {
        name: partial(run_variant, *variant, num_pairs)
        for name, variant in _variants(load_config(BackfillConfig, config_path), without).items()
    }
    rows = take_turns("checks", variants, rounds, output)
    write_tables(output, "checks", {"Checks": summary(rows, "CPU seconds", list(variants)[:1])})


def _variants(
    config: BackfillConfig, without: str | None
) -> dict[str, tuple[Explainer, DecodingConfig]]:
    """What writes the texts of each variant, and how."""
    plain = config.decoding.model_copy(update={"text": _PLAIN})
    text = config.decoding.text.model_copy(update={"retry_temperature": None})
    once = config.decoding.model_copy(update={"text": text})
    ours = _explainer(config, config.artifact("adapter"))
    others = {} if without is None else {"without aspects": (_explainer(config, without), plain)}
    return {
        **others,
        "written": (ours, plain),
        "checked once": (ours, once),
        "checked": (ours, config.decoding),
    }


def _explainer(config: BackfillConfig, adapter: str) -> Explainer:
    return load_explainer(config.with_artifacts({"adapter": adapter}), config.actors.device)


def run_variant(explainer: Explainer, decoding: DecodingConfig, num_pairs: int) -> Record:
    """CPU seconds of all work on the pairs after loading, those of choosing aspects, and tokens."""
    held_out = drawn_pairs(held_out_pairs(explainer.dataset, "test"), num_pairs, seed=0)
    pairs = [Pair(pair.user_index, pair.item_index) for pair in held_out]
    started = time.process_time()
    texts = explainer.pairs.texts_of(pairs)
    chosen = time.process_time()
    prompts = [explainer.pairs.prompt(pair, said) for pair, said in zip(pairs, texts, strict=True)]
    done = list(explainer.explain(prompts, texts, decoding))
    return {
        "pairs": len(pairs),
        "CPU seconds": time.process_time() - started,
        "of choosing": chosen - started,
        "prompt tokens": sum(map(len, prompts)),
        "generated tokens": sum(each.num_generated_tokens for each in done),
        "refused": sum(bool(each.refused) for each in done) / len(done),
    }


if __name__ == "__main__":
    app()

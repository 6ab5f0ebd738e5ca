"""`report.html`: what an evaluation found, on one page.

The page is self-contained: style and SVG are inline, there is no script, and nothing is fetched.
The page itself is templates/report.html and report.css; here its content is put together. Every
text is escaped by jinja2, only the plots made here go in as they are. Equal arguments give an equal
page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xrec.data.splits import drawn_pairs
from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.descriptions import DESCRIPTIONS, format_interval, format_value
from xrec.evaluate.plots import History, Plot, history_plot, length_plot, nll_plot
from xrec.evaluate.scores import Coverage, ScoredPair
from xrec.evaluate.text_metrics import num_words
from xrec.storage import Manifest


@dataclass(frozen=True)
class Lineage:
    """The artifacts that were evaluated, by name, in the order of making, and how training went.

    `adapter_history` has rows of `epoch` or `step`, `train_loss`, `validation_loss`;
    `graph_history` rows of `epoch`, `recall@20`, `ndcg@20`. Values may be missing; an empty history
    has no plot.
    """

    sources: Mapping[str, Manifest]
    adapter_history: History = field(default=())
    graph_history: History = field(default=())


def render_report(
    pairs: Sequence[ScoredPair],
    metrics: Mapping[str, Estimate],
    *,
    coverage: Coverage,
    lineage: Lineage,
    config: Mapping[str, Any],
    num_examples: int,
) -> str:
    """The page as HTML text; `num_examples` of `pairs`, drawn by a hash, are shown in full."""
    environment = Environment(
        loader=PackageLoader("xrec.evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html").render(
        style=Markup(environment.get_template("report.css").render()),
        split=config.get("split", "held-out"),
        num_pairs=len(pairs),
        num_users=len({pair.user_id for pair in pairs}),
        num_items=len({pair.item_id for pair in pairs}),
        coverage=coverage.sentence,
        verdict=verdict(metrics.get("personalization_gain")),
        groups=_groups(metrics),
        plots=_plots(pairs, lineage),
        examples=drawn_pairs(pairs, num_examples, seed=0),
        sources=[
            (name, manifest, _as_yaml(manifest.config))
            for name, manifest in lineage.sources.items()
        ],
        settings=_as_yaml(config),
    )


def verdict(gain: Estimate | None) -> str:
    """What the personalization gain and its interval allow to say of this one training."""
    if gain is None:
        return "No reference could be weighed: all prompts are too long."
    interval = format_interval("personalization_gain", gain)
    size = f"{gain.value:.3f} nats per token (95 % interval {interval})"
    if gain.low is not None and gain.low > 0:
        return (
            "The likelihood follows the user: with the own vector the reference is likelier than "
            f"with another user's, by {size}."
        )
    if gain.high is not None and gain.high < 0:
        return (
            "The likelihood is misled: with the user's own vector the reference is less likely "
            f"than with another user's, a gain of {size}."
        )
    return (
        "No clear sign of the collaborative signal in the likelihood: the user's own vector, in "
        f"place of another user's, brings a gain of {size}."
    )


def _groups(metrics: Mapping[str, Estimate]) -> list[tuple[str, list[dict[str, str]]]]:
    """The metrics as table rows, by group."""
    rows = [
        {
            "group": DESCRIPTIONS[name].group,
            "name": name,
            "label": DESCRIPTIONS[name].label,
            "meaning": DESCRIPTIONS[name].meaning,
            "value": format_value(name, estimate),
            "interval": format_interval(name, estimate),
        }
        for name, estimate in metrics.items()
    ]
    return [
        (group, list(members)) for group, members in groupby(rows, key=lambda row: row["group"])
    ]


def _plots(pairs: Sequence[ScoredPair], lineage: Lineage) -> list[Plot]:
    weighed = [pair for pair in pairs if pair.gain is not None]
    own, shuffled = (
        np.array([getattr(pair, name) for pair in weighed], dtype=np.float64)
        for name in ("nll_own", "nll_shuffled")
    )
    generated, reference = (
        num_words([pair.text for pair in pairs]),
        num_words([pair.reference for pair in pairs]),
    )
    plots = [
        Plot(
            "Length",
            "Words of the generated texts and of their references.",
            Markup(length_plot(generated, reference)),
        ),
    ]
    if weighed:
        against = Plot(
            "Own vector against another user's",
            "Each dot is a pair: mean NLL of its reference, nats per token. Above the line, the "
            "user's own vector explains the text better.",
            Markup(nll_plot(own, shuffled)),
        )
        plots.insert(0, against)
    if lineage.adapter_history:
        svg = history_plot(
            lineage.adapter_history, ("train_loss", "validation_loss"), "nats per token"
        )
        plots.append(
            Plot(
                "Loss of the adapter",
                "Mean NLL of the explanation's tokens, in training and on validation pairs.",
                Markup(svg),
            )
        )
    if lineage.graph_history:
        svg = history_plot(lineage.graph_history, ("recall@20", "ndcg@20"), "share")
        plots.append(
            Plot(
                "Ranking of the graph",
                "Recall@20 and NDCG@20 on validation, training items masked.",
                Markup(svg),
            )
        )
    return plots


def _as_yaml(values: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

"""The evaluation artifact: metrics as JSON and Parquet, scored pairs, `report.html`, manifest.

The report is self-contained: style and SVG are inline, there is no script, and nothing is fetched.
jinja2 escapes every text; only the plots made here go in as they are. Equal arguments give equal
files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xrec.data.splits import drawn_pairs
from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.descriptions import DESCRIPTIONS, format_interval, format_value
from xrec.evaluate.metrics import METRICS, flat_metrics, metrics_table
from xrec.evaluate.plots import History, Plot, history_plot, length_plot, nll_plot
from xrec.evaluate.scores import (
    SCORED_PAIRS,
    Coverage,
    ScoredPair,
    scored_pairs_table,
)
from xrec.evaluate.text_metrics import num_words
from xrec.storage import (
    Location,
    Manifest,
    write_contents,
    write_manifest,
    write_table,
)

REPORT = "report.html"


@dataclass(frozen=True)
class Lineage:
    """The artifacts that were evaluated, by name, in the order of making, and how training went.

    `adapter_history` has rows of `epoch` or `step`, `train_loss`, `validation_loss`;
    `graph_history` rows of `epoch`, `recall@20`, `ndcg@20`. Values may be missing; an empty history
    has no plot.
    """

    sources: Mapping[str, Manifest]
    adapter_history: History = ()
    graph_history: History = ()


def write_evaluation(
    location: Location,
    pairs: Sequence[ScoredPair],
    metrics: Mapping[str, Estimate],
    *,
    coverage: Coverage,
    lineage: Lineage,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    num_examples: int = 20,
) -> Manifest:
    """Write the artifact to `location` and return its manifest, which holds the metrics too.

    `config` and `inputs` are the manifest's: the settings that the content depends on (plain JSON
    values), and the fingerprints of what was evaluated. Equal arguments give equal files.
    """
    flat = flat_metrics(metrics)
    texts = {
        "metrics.json": json.dumps(flat, indent=2, allow_nan=False) + "\n",
        REPORT: render_report(
            pairs,
            metrics,
            coverage=coverage,
            lineage=lineage,
            config=config,
            num_examples=num_examples,
        ),
    }
    files = {
        "metrics.parquet": write_table(
            location / "metrics.parquet", metrics_table(metrics), METRICS
        ),
        "pairs.parquet": write_table(
            location / "pairs.parquet", scored_pairs_table(pairs), SCORED_PAIRS
        ),
    }
    files |= write_contents(location, texts)
    row_counts = {
        "pairs": len(pairs),
        "metrics": len(metrics),
        "explained_in_backfill": coverage.num_explained,
        **{f"failed_in_backfill:{reason}": n for reason, n in sorted(coverage.failed.items())},
    }
    return write_manifest(
        location,
        "evaluation",
        config=config,
        inputs=inputs,
        files=files,
        row_counts=row_counts,
        metrics=flat,
    )


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
        plots=list(_plots(pairs, lineage)),
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


def _plots(pairs: Sequence[ScoredPair], lineage: Lineage) -> Iterator[Plot]:
    weighed = [(pair.nll_own, pair.nll_shuffled) for pair in pairs if pair.gain is not None]
    if weighed:
        yield Plot(
            "Own vector against another user's",
            "Each dot is a pair: mean NLL of its reference, nats per token. Above the line, the "
            "user's own vector explains the text better.",
            Markup(nll_plot(*np.array(weighed, dtype=np.float64).T)),
        )
    generated, references = [pair.text for pair in pairs], [pair.reference for pair in pairs]
    yield Plot(
        "Length",
        "Words of the generated texts and of their references.",
        Markup(length_plot(num_words(generated), num_words(references))),
    )
    if history := lineage.adapter_history:
        yield Plot(
            "Loss of the adapter",
            "Mean NLL of the explanation's tokens, in training and on validation pairs.",
            Markup(history_plot(history, ("train_loss", "validation_loss"), "nats per token")),
        )
    if history := lineage.graph_history:
        yield Plot(
            "Ranking of the graph",
            "Recall@20 and NDCG@20 on validation, training items masked.",
            Markup(history_plot(history, ("recall@20", "ndcg@20"), "share")),
        )


def _as_yaml(values: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

"""The evaluation artifact: metrics as JSON, scored pairs, `report.html`, manifest.

The report is self-contained: its style is inline, it has no script, and nothing is fetched.
jinja2 escapes every text. Equal arguments give equal files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xrec.data import drawn_pairs
from xrec.evaluate.chart import Bar, bar_chart
from xrec.evaluate.intervals import Estimate
from xrec.evaluate.metrics import GAIN, OF_VECTORS, Metrics, flat_metrics
from xrec.evaluate.scores import SCORED_PAIRS, Coverage, ScoredPair, scored_pairs_table
from xrec.evaluate.text_metrics import aspect_pattern, names_none_beside
from xrec.storage import Location, Manifest, write_contents, write_manifest, write_table

REPORT = "report.html"


def write_evaluation(
    location: Location,
    pairs: Sequence[ScoredPair],
    metrics: Metrics,
    *,
    coverage: Coverage,
    sources: Mapping[str, Manifest],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    about: str,
) -> Manifest:
    """Write the artifact to `location` and return its manifest, which includes the metrics.

    `sources` are the evaluated artifacts by name, in the order in which they were made. `config`
    and `inputs` go into the manifest: the settings that the content depends on (plain JSON
    values), and the fingerprints of what was evaluated. `about` tells readers what was evaluated.
    Equal arguments give equal files.
    """
    flat = flat_metrics(metrics)
    texts = {
        "metrics.json": json.dumps(flat, indent=2, allow_nan=False) + "\n",
        REPORT: render_report(
            pairs, metrics, coverage=coverage, sources=sources, config=config, about=about
        ),
    }
    table = scored_pairs_table(pairs)
    files = {
        "pairs.parquet": write_table(location / "pairs.parquet", table, SCORED_PAIRS),
        **write_contents(location, texts),
    }
    row_counts = {
        "pairs": len(pairs),
        "metrics": len(metrics),
        "explained": coverage.num_explained,
        **{f"failed:{reason}": n for reason, n in sorted(coverage.failed.items())},
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
    metrics: Metrics,
    *,
    coverage: Coverage,
    sources: Mapping[str, Manifest],
    config: Mapping[str, Any],
    about: str,
    num_examples: int = 10,
) -> str:
    """Return the page as HTML, which shows the texts of `num_examples` pairs that differ most."""
    environment = Environment(
        loader=PackageLoader("xrec.evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html").render(
        style=Markup(environment.get_template("report.css").render()),
        about=about,
        num_pairs=len(pairs),
        num_users=len({pair.user_id for pair in pairs}),
        num_items=len({pair.item_id for pair in pairs}),
        coverage=coverage.sentence,
        headline=_headline(pairs, coverage),
        charts=_charts(metrics, coverage),
        verdict=verdict(metrics.get(GAIN), has_vectors="adapter" in sources),
        groups=_groups(metrics),
        examples=varied_pairs(pairs, num_examples),
        sources=[(name, manifest, _as_yaml(manifest.config)) for name, manifest in sources.items()],
        settings=_as_yaml(config),
    )


def varied_pairs(pairs: Sequence[ScoredPair], count: int) -> list[ScoredPair]:
    """Return `count` pairs with a text, each as unlike the earlier ones as possible.

    Likeness is the Jaccard similarity of the texts' words. The first is drawn by a hash, and the
    others are chosen from twenty times as many as are wanted.
    """
    drawn = drawn_pairs([pair for pair in pairs if pair.explanation], 20 * count)
    words = [set(pair.explanation.lower().split()) for pair in drawn]
    nearest, chosen = [0.0] * len(drawn), list[int]()
    while len(chosen) < min(count, len(drawn)):
        left = [index for index in range(len(drawn)) if index not in chosen]
        chosen.append(latest := min(left, key=nearest.__getitem__))
        for index in left:
            both, all_words = words[index] & words[latest], words[index] | words[latest]
            nearest[index] = max(nearest[index], len(both) / len(all_words))
    return [drawn[index] for index in chosen]


def num_wrong(pairs: Sequence[ScoredPair]) -> int:
    """Return how many texts make a claim that is known to be wrong.

    They name another item, praise what the user complains of, or name an aspect that the item of
    the generated sample lacks.
    """
    planted = [pair.aspects for pair in pairs]
    pattern = aspect_pattern(aspect for own in planted for aspect in own or ())
    has_own = names_none_beside([pair.explanation for pair in pairs], planted, pattern)
    return sum(
        pair.other_title is not None or bool(pair.names_complaint) or supported == 0
        for pair, supported in zip(pairs, has_own, strict=True)
    )


def _headline(pairs: Sequence[ScoredPair], coverage: Coverage) -> str:
    written, wrong = sum(bool(pair.explanation) for pair in pairs), num_wrong(pairs)
    return (
        f"{_percent(coverage.num_explained, coverage.num_pairs)} of the pairs have a text, and "
        f"{_percent(wrong, written)} of the texts make a claim that is known to be wrong."
    )


def _percent(count: int, whole: int) -> str:
    return f"{100 * count / max(1, whole):.1f} %"


def _charts(metrics: Metrics, coverage: Coverage) -> list[Markup]:
    """Return charts of the pairs by kind of text, and of what depends on the user's vector."""
    kinds = {
        "by the language model": coverage.num_explained - coverage.num_plain,
        "by a template": coverage.num_plain,
        **{f"no text: {reason}": count for reason, count in sorted(coverage.failed.items())},
    }
    shares = [Bar(label, 100 * count / coverage.num_pairs) for label, count in kinds.items()]
    labels = {
        "aspect_accuracy": "own vector",
        "aspect_accuracy_shuffled": "another user's vector",
        "aspect_chance": "chance",
    }
    values = {metric.name: 100 * estimate.value for metric, estimate in metrics.items()}
    aspects = [Bar(label, values[name]) for name, label in labels.items() if name in values]
    return [
        bar_chart("Pairs by kind of text", "% of all pairs", shares, most=100),
        bar_chart("Texts that name the right aspect", "% of texts", aspects, most=100),
    ]


def verdict(gain: Estimate | None, *, has_vectors: bool = True) -> str:
    """Return what the personalization gain and its interval imply for this one training run."""
    if not has_vectors:
        labels = "; ".join(metric.label for metric in OF_VECTORS)
        return f"The texts are written from words alone, so these are not measured: {labels}."
    if gain is None:
        return "Nothing could be measured: all prompts with their references are too long."
    size = f"{gain.value:.3f} nats per token (95 % interval {gain.interval(3)})"
    if gain.low is not None and gain.low > 0:
        return (
            "What a user did matters: with the user's own vector the model finds the real "
            f"explanations likelier than with another user's, by {size}."
        )
    if gain.high is not None and gain.high < 0:
        return (
            "The vectors mislead: with the user's own vector the model finds the real explanations "
            f"less likely than with another user's, a gain of {size}."
        )
    return (
        "What a user did makes no clear difference: with the user's own vector instead of "
        f"another user's, the real explanations become likelier by {size}."
    )


def _groups(metrics: Metrics) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the metrics as table rows, by group."""
    groups: dict[str, list[dict[str, str]]] = {}
    for metric, estimate in metrics.items():
        value, interval = f"{estimate.value:.{metric.digits}f}", estimate.interval(metric.digits)
        row = {**vars(metric), "value": value, "interval": interval}
        groups.setdefault(metric.group, []).append(row)
    return list(groups.items())


def _as_yaml(values: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

"""`report.md` of an ablation: one table, a row a variant, and what may be read from it."""

from collections.abc import Mapping

from xrec.evaluate.bootstrap import Estimate

_COLUMNS = {
    "nll_own": "NLL, own vector",
    "nll_shuffled": "NLL, another user's",
    "personalization_gain": "gain of the own vector",
    "nll_above_full": "NLL above full",
    "aspect_accuracy": "aspect accuracy",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L F1",
    "embedding_f1": "embedding F1",
}


def render_ablation(
    metrics: Mapping[str, Mapping[str, Estimate]], num_pairs: int, num_users: int
) -> str:
    """The page; a metric that no variant has is no column."""
    columns = [
        name for name in _COLUMNS if any(name in of_variant for of_variant in metrics.values())
    ]
    rows = [
        [f"`{variant}`", *(_cell(of_variant.get(name)) for name in columns)]
        for variant, of_variant in metrics.items()
    ]
    table = [
        ["variant", *(_COLUMNS[name] for name in columns)],
        ["---"] * (len(columns) + 1),
        *rows,
    ]
    sentences = [
        sentence(variant, of_variant)
        for variant, of_variant in metrics.items()
        if "nll_above_full" in of_variant
    ]
    lines = [
        "# Ablation",
        "",
        f"{num_pairs:,} held-out pairs of {num_users:,} users, the same for all variants. NLL is",
        "the reference's, in nats a token: lower is better. In brackets: 95 % bootstrap intervals",
        "by user. *Gain*: NLL with another user's vector minus NLL with the own one. *NLL above",
        "full*: the variant's NLL minus the full one's on the same pair; above 0, the full variant",
        "is better.",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *(f"- {line}" for line in sentences),
    ]
    return "\n".join(lines) + "\n"


def sentence(variant: str, metrics: Mapping[str, Estimate]) -> str:
    """What the difference to the full variant and its interval allow to say."""
    difference = metrics["nll_above_full"]
    shown = f"{_cell(difference)} nats a token"
    if difference.low is not None and difference.low > 0:
        return f"`full` is better than `{variant}`, by {shown}."
    if difference.high is not None and difference.high < 0:
        return f"`full` is worse than `{variant}`: {shown}."
    return f"`full` and `{variant}` cannot be told apart: {shown}."


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f" ({estimate.low:.4f} to {estimate.high:.4f})"
    return f"{estimate.value:.4f}{interval}"

"""`report.md` of an ablation: one table, a row a variant, and what may not be read from it."""

from collections.abc import Mapping

from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.markdown import table_lines

_COLUMNS = {
    "coverage": "coverage",
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
    heading = ["variant", *(_COLUMNS[name] for name in columns)]
    lines = [
        "# Ablation",
        "",
        f"{num_pairs:,} held-out pairs of {num_users:,} users, the same for all variants. NLL is",
        "the reference's, in nats a token: lower is better. In brackets: 95 % bootstrap intervals",
        "by user. *Gain*: NLL with another user's vector minus NLL with the own one. *NLL above",
        "full*: the variant's NLL minus the full one's on the same pair; above 0, the full variant",
        "is better.",
        "",
        *table_lines(heading, rows),
        "",
        "This is no verdict: each variant was trained once, and the intervals are over users only.",
        "Trainings that differ in the seed alone were seen to lie as far apart as variants do.",
        "`xrec compare` gives a verdict, from three seeds or more of each variant.",
    ]
    return "\n".join(lines) + "\n"


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f" ({estimate.low:.4f} to {estimate.high:.4f})"
    return f"{estimate.value:.4f}{interval}"

"""`xrec compare`: contestants in one table."""

from xrec.config.comparison import ComparisonConfig
from xrec.config.shared import output_uri


class CompareConfig(ComparisonConfig):
    """`xrec compare`: contestants are trained, write texts for the same held-out pairs, are scored.

    ours: what `model` and `prompt` say. Its variants are without_profile (no profile of user and
    item and no aspects in the prompt), without_injection (vectors in the prompt only, not in the
    layers), without_both, without_aspects (no aspects in the prompt), random_vectors (a fixed
    random vector for each user and item in place of the graph's) and constant (the same vector for
    everybody, a learned soft prompt). profile is the item's profile as it is, and nearest the
    training explanation of the item by the user who is nearest in the graph. zero_shot is the
    frozen language model with the same prompt in words only, lora the same model with low-rank
    weights trained on it. The kinds of `xrec peer` are published models. A name of `texts` is a
    table from elsewhere.
    """

    comparison: str | None = output_uri("comparison")

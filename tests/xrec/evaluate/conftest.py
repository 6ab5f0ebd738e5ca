"""Made-up scored pairs of a small town, for every metric and the report without any model."""

import numpy as np
import pytest

from xrec.config import EvaluateConfig, parse_config
from xrec.evaluate.scores import Coverage, ScoredPair

ASPECTS = (
    "late opening hours",
    "dog-friendly patio",
    "quiet reading corners",
    "live jazz",
    "fresh sourdough",
    "river view",
)
TEMPLATES = (
    "You would enjoy this place for its {}.",
    "The {} make this place a good match for you, and regulars say that it never gets too crowded "
    "on weekdays.",
    "With its {}, this is somewhere you are likely to come back to.",
)

LIKELY = {"nll_own": 1.0, "nll_shuffled": 1.0}


@pytest.fixture
def pairs():
    """Pairs of which about 70 % name the right aspect; their NLL gain is 0.25 on average."""
    rng, found = np.random.default_rng(0), []
    for index in range(200):
        aspects = tuple(map(str, rng.choice(ASPECTS, size=4, replace=False)))
        nll_own = float(rng.normal(1.9, 0.35))
        named = aspects[0] if rng.random() < 0.7 else aspects[1]
        shuffled = str(rng.choice(TEMPLATES)).format(rng.choice(aspects)) if index < 100 else None
        found.append(
            ScoredPair(
                user_id=f"user-{rng.integers(0, 60)}",
                item_id=f"place-{rng.integers(0, 40)}",
                reference=str(rng.choice(TEMPLATES)).format(aspects[0]),
                explanation=str(rng.choice(TEMPLATES)).format(named),
                nll_own=nll_own,
                nll_shuffled=nll_own + float(rng.normal(0.25, 0.3)),
                shuffled_explanation=shuffled,
                aspect=aspects[0],
                aspects=aspects,
            )
        )
    return found


def make_config(**values: object) -> EvaluateConfig:
    """A config without an encoder, unless `values` names one."""
    return parse_config(
        EvaluateConfig,
        {"workspace": "/unused", "llm": {"model": "unused"}, "encoder": None, **values},
    )


def scored(user: str, explanation: str = "e", **values: object) -> ScoredPair:
    """A pair of one item whose reference is "r" and as likely with either vector."""
    return ScoredPair(user, "i", **{"reference": "r", **LIKELY, **values}, explanation=explanation)


@pytest.fixture
def coverage():
    return Coverage(200, {"no_full_sentence": 2, "names_another_item": 5})

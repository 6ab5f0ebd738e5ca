"""The gate's figure of claims: a language model lists what some texts claim, and code checks it."""

import json
import logging
import os
from math import inf, nan

from xrec.bulk import BulkRun, Survey, added, start_costs, use_of
from xrec.config import BackfillConfig
from xrec.data import drawn, read_dataset
from xrec.errors import BudgetError, EndpointError
from xrec.evaluate.claims import check_claims, known_texts
from xrec.nights.figures import LEAST_ROWS, Rows
from xrec.storage import location_of
from xrec.text import Asker, Usage, endpoint_key, load_language_model, make_asker

logger = logging.getLogger("xrec")

_NUM_TEXTS = 100
_EVIDENCE = ("aspects", "evidence_kind", "evidence_category", "evidence_at_least")


def judged_claims(
    config: BackfillConfig, run: BulkRun, rows: Rows
) -> tuple[float | None, dict[str, float]]:
    """Return the share of claims in the run's texts that are supported, and what judging cost.

    The texts are 100 of `rows`, drawn by a hash of their IDs. The share is None without a judge or
    for fewer than 50 texts, and NaN if there are no claims or too few valid replies. The costs are
    those of all starts. Raises BudgetError, with the costs, if the run's budget is used up.
    """
    if config.judge is None or len(rows) < LEAST_ROWS:
        return None, {}
    dataset, (users, items) = read_dataset(location_of(config, "dataset")), zip(*rows, strict=True)
    texts, evidence = list[str](), list[tuple[str, list[str]]]()
    for user, item in ((users[n], items[n]) for n in drawn(users, items, _NUM_TEXTS)):
        row = rows[user, item]
        known = known_texts(dataset, dataset.user_index(user), dataset.item_index(item))
        if row["evidence_item_id"] is not None:
            index = dataset.item_index(row["evidence_item_id"])
            known.append(f"In the user's history: {dataset.items['title'][index].as_py()}")
        known.append(json.dumps({name: row[name] for name in _EVIDENCE if row[name]}))
        texts.append(row["explanation"])
        evidence.append((user, known))
    asker = _asker(config, run)
    try:
        found = [claims for claims in check_claims(asker, texts, evidence) if claims is not None]
    except EndpointError as error:
        logger.warning("the claims cannot be judged: %s", error)
        found = []
    except BudgetError as error:
        error.metrics = {"costs": added(costs_of(run), _costs(asker.usage))}
        raise
    num_claims = sum(claims.num_claims for claims in found)
    share = sum(claims.num_supported for claims in found) / max(1, num_claims)
    is_known = len(found) >= LEAST_ROWS and num_claims
    return share if is_known else nan, _costs(asker.usage)


def costs_of(run: BulkRun) -> dict[str, float]:
    """Return what a run's texts cost, over all starts."""
    return dict((Survey(run).summary + start_costs(run.folder)).costs)


def _costs(usage: Usage) -> dict[str, float]:
    return {"prompt_tokens": usage.num_prompt_tokens, "reply_tokens": usage.num_reply_tokens}


def _asker(config: BackfillConfig, run: BulkRun) -> Asker:
    """Return what asks the judge with the rest of the run's budget; money counts as tokens."""
    assert config.judge is not None
    used = use_of(costs_of(run), config.prices)
    left = config.budget.get("tokens", inf) - used["tokens"]
    prices = config.prices
    if price := max(prices.get("million_prompt_tokens", 0), prices.get("million_reply_tokens", 0)):
        left = min(left, (config.budget.get("money", inf) - used["money"]) / price * 1e6)
    model = load_language_model(
        config.judge, job=config, key=endpoint_key(config.judge, os.environ)
    )
    name = f"claims of {run.record.run}"
    return make_asker(config, config.judge, model, run=name, max_tokens=left)

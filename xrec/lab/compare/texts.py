"""The texts of an entry: why some are missing, what they cost, and those of bulk runs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from xrec.backfill import read, read_failed
from xrec.backfill.driver import finish, has_work, run_backfill
from xrec.backfill.plan import run_request
from xrec.backfill.task import LoadExplainer, load_task_explainer
from xrec.bulk import Identity, open_run
from xrec.config import BackfillConfig
from xrec.evaluate.measure import PairIds
from xrec.schemas import PAIRS
from xrec.storage import fingerprint_of

_NO_TEXT = "no_text"
# `texts.parquet` of a comparison: a row an entry and pair; null where it has no text.
ALL_TEXTS = PAIRS.append(pa.field("entry", pa.string(), nullable=False)).append(
    pa.field("text", pa.string())
)


@dataclass(frozen=True)
class EntryTexts:
    """The texts of an entry by (user_id, item_id), None where it has none.

    costs: by the names of `xrec.lab.compare.result.COST_INFOS`, as far as they were measured:
        training_seconds by the clock, of the epochs with their validations;
        num_trained_parameters, 0 where nothing is trained; pairs_per_second of a process at work.
    """

    texts: Mapping[PairIds, str | None]
    fingerprint: str
    failed: Mapping[str, int] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Mapping[PairIds, str | None], **costs: float) -> "EntryTexts":
        """Texts that were not written by a bulk run."""
        missing = sum(text is None for text in texts.values())
        fingerprint = fingerprint_of([[*ids, text] for ids, text in texts.items()])
        failed = {_NO_TEXT: missing} if missing else {}
        return cls(texts, fingerprint, failed, costs)


def write_texts(
    config: BackfillConfig, identity: Identity, load: LoadExplainer = load_task_explainer
) -> EntryTexts:
    """Write what is left of the run, and return its texts; Ray is needed if anything is left.

    The costs are those of writing. Raises what `xrec backfill` raises.
    """
    run = open_run(run_request(config, identity))
    manifest = run_backfill(config, run, load) if has_work(config, run) else finish(config, run)
    assert manifest is not None, "a run without a limit is finished when it ends"
    source = (config.artifact("explanations"), manifest.version, config.storage)
    rows = read(*source).to_table(columns=["user_id", "item_id", "explanation"]).to_pylist()
    failed = read_failed(*source).to_table(columns=["user_id", "item_id", "reason"]).to_pylist()
    texts: dict[PairIds, str | None] = {
        (row["user_id"], row["item_id"]): row["explanation"] for row in rows
    }
    texts |= {(row["user_id"], row["item_id"]): None for row in failed}
    reasons = Counter(row["reason"] for row in failed)
    of_run, counts = manifest.metrics["costs"], manifest.row_counts
    num_done = counts["explanations"] + counts["failed"] - of_run.get("carried", 0)
    is_timed = num_done and of_run.get("seconds")  # not if all were carried over
    costs = {"pairs_per_second": num_done / of_run["seconds"]} if is_timed else {}
    return EntryTexts(texts, manifest.fingerprint, dict(sorted(reasons.items())), costs)

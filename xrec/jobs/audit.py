"""Find the published texts that today's checks would refuse: `xrec audit`."""

from collections import defaultdict
from collections.abc import Iterator

from xrec.backfill.explain import FailedPair, refused_today
from xrec.bulk import published, take_down
from xrec.config import BackfillConfig
from xrec.jobs import check_readable
from xrec.schemas import GENERATED
from xrec.text.writers import load_finisher


def audit(config: BackfillConfig, *, takes_down: bool) -> Iterator[str]:
    """Yield a line for each published text that would be refused, and a summary.

    With `takes_down`, makes one takedown per reason. Writes no texts, and does not load the
    language model. Raises what `load_finisher` and `take_down` raise.
    """
    check_readable(config)
    rules, uri = config.decoding.text, config.artifact("explanations")
    table, finisher = published(uri, storage=config.storage), load_finisher(config)
    num_rows, by_reason = 0, defaultdict[str, list[FailedPair]](list)
    for rows in table.batches(GENERATED.names):
        num_rows += rows.num_rows
        for pair in refused_today(*finisher, rows, rules):
            by_reason[pair.reason].append(pair)
            yield f"{pair.ids['user_id']}  {pair.ids['item_id']}  {pair.reason}: {pair.message}"
    counts = "".join(f"; {len(pairs)} {reason}" for reason, pairs in by_reason.items())
    num_refused = sum(map(len, by_reason.values()))
    yield f"{uri}: {num_refused} of {num_rows} texts would be refused today{counts}"
    for reason, pairs in by_reason.items() if takes_down else ():
        ids, why = [pair.ids for pair in pairs], f"audit: {reason}"
        made = take_down(uri, rows=ids, reason=why, storage=config.storage)
        yield f"takedown {made.number} ({why}): version {made.version} no longer has them"

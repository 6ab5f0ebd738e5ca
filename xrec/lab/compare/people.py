"""What people are asked after a comparison: the blind sheet, and their answers if there are any."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from xrec.lab.blind import (
    PAGE,
    Sheet,
    answered_sheet,
    judge,
    make_sheet,
    read_answers,
    read_sheet,
    write_judgement,
    write_sheet,
)
from xrec.lab.compare.made import Made
from xrec.lab.compare.make import Given
from xrec.lab.compare.pairs import PairIds
from xrec.lab.compare.score import Scored
from xrec.lab.measures import PAIR_COLUMNS
from xrec.storage import Manifest, fingerprint_of, location_of

logger = logging.getLogger("xrec")


def ask_people(
    given: Given,
    made: Mapping[str, Made],
    scored: Mapping[str, Scored],
    comparison: Manifest,
) -> None:
    """Write the sheet that the config asks for, and read the answers that it names.

    made, scored: the first seed of each contestant. Raises DataError for answers that do not fit
    the sheet.
    """
    config = given.config
    sheet_config, folder = config.blind_sheet, location_of(config, config.makes) / "blind-sheets"
    if sheet_config.num_pairs:
        texts = {name: each.texts for name, each in made.items()}
        sheet = make_sheet(
            sheet_config, given.dataset, given.pairs.pairs, texts, seed=config.pairs_seed
        )
        location = folder / sheet.fingerprint
        write_sheet(location, sheet)
        logger.info("for people: %s; the key beside it is not for them", location / PAGE)
    if not sheet_config.answers:
        return
    sheet = read_sheet(folder / answered_sheet(sheet_config.answers[0], config.storage))
    ratings = read_answers(sheet_config.answers, sheet, config.storage)
    contestants = [name for name in config.contestants if name in made]
    judgement = judge(
        ratings,
        contestants,
        scores_by_pair(_of_sheet(sheet, scored)),
        num_samples=config.bootstrap_samples,
        seed=config.pairs_seed,
    )
    people = location_of(config, config.makes) / "people"
    write_judgement(
        people,
        judgement,
        ratings,
        config={"sheet": sheet.fingerprint, "ratings": fingerprint_of(ratings.to_pylist())},
        inputs={"comparison": comparison.fingerprint},
    )
    logger.info("%d ratings of %d judges: %s", ratings.num_rows, judgement.num_judges, people)


def _of_sheet(sheet: Sheet, scored: Mapping[str, Scored]) -> dict[str, Scored]:
    """The scores of the texts that are on the sheet, and of no other texts."""
    shown = {
        (contestant, pair.user_id, pair.item_id): text
        for pair in sheet.pairs
        for contestant, text in zip(pair.contestants, pair.texts, strict=True)
    }
    found, num_shown, num_same = {}, 0, 0
    for contestant, each in scored.items():
        rows = zip(*(each.table[name].to_pylist() for name in PAIR_COLUMNS), strict=True)
        texts = [(shown.get((contestant, user, item)), text) for user, item, text in rows]
        is_same = [on_sheet == text for on_sheet, text in texts]
        num_shown += sum(on_sheet is not None for on_sheet, _ in texts)
        num_same += sum(is_same)
        found[contestant] = replace(each, table=each.table.filter(pa.array(is_same)))
    if num_same < num_shown:
        logger.warning(
            "%d of %d texts of the sheet are not those that are scored now, and are left out of "
            "the metrics' correlations; the config that made the sheet has them all",
            num_shown - num_same,
            num_shown,
        )
    return found


def scores_by_pair(
    scored: Mapping[str, Scored],
) -> dict[str, dict[str, dict[PairIds, float]]]:
    """The value of each metric, by metric, contestant and pair; NaN where it is not defined."""
    found: dict[str, dict[str, dict[PairIds, float]]] = {}
    for contestant, each in scored.items():
        table = each.table
        ids = list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
        for metric in table.column_names:
            if metric not in PAIR_COLUMNS:
                values = np.asarray(table[metric].to_numpy(), dtype=np.float64)
                of_contestant = dict(zip(ids, values.tolist(), strict=True))
                found.setdefault(metric, {})[contestant] = of_contestant
    return found

"""What people are asked after a comparison: the blind sheet, and their answers if there are any."""

import logging
from collections.abc import Mapping

from xrec.lab.blind.answers import RATINGS, answered_sheet, read_answers
from xrec.lab.blind.judgement import judge, judgement_page
from xrec.lab.blind.sheet import PAGE, make_sheet, read_sheet, write_sheet
from xrec.lab.compare.make import Inputs
from xrec.lab.compare.pairs import SEED
from xrec.lab.compare.texts import EntryTexts
from xrec.storage import location_of, write_table

logger = logging.getLogger("xrec")


def ask_people(given: Inputs, made: Mapping[str, EntryTexts]) -> None:
    """Write the sheet that the config asks for, and read the answers that it names.

    made: the first seed of each contestant. The answers' ratings and `people.md` lie in the
    comparison's folder `people`. Raises DataError for answers that do not fit the sheet.
    """
    config, location = given.config, location_of(given.config, "comparison")
    asked, folder = config.blind_sheet, location / "blind-sheets"
    if asked.num_pairs:
        texts = {name: each.texts for name, each in made.items()}
        sheet = make_sheet(asked, given.dataset, given.pairs.pairs, texts, seed=SEED)
        write_sheet(folder / sheet.fingerprint, sheet)
        page = folder / sheet.fingerprint / PAGE
        logger.info("for people: %s; the key beside it is not for them", page)
    if not asked.answers:
        return
    sheet = read_sheet(folder / answered_sheet(asked.answers[0], config.storage))
    ratings = read_answers(asked.answers, sheet, config.storage)
    judgement = judge(
        ratings,
        [name for name in config.contestants if name in made],
        num_samples=config.bootstrap_samples,
        seed=SEED,
    )
    people = location / "people"
    write_table(people / "answers.parquet", ratings, RATINGS)
    (people / "people.md").write_bytes(judgement_page(judgement).encode())
    logger.info("%d ratings of %d judges: %s", ratings.num_rows, judgement.num_judges, people)

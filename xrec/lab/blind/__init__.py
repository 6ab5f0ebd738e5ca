"""People as judges: a page of texts without names, and what the answers say.

sheet       which pairs and texts stand on the page, and in which order; page, CSV, and the key
answers     the files that people saved, with the key: a rating a person, text and question
judgement   wins against the first contestant, agreement, correlation with the metrics
"""

from xrec.lab.blind.answers import answered_sheet, read_answers
from xrec.lab.blind.judgement import judge
from xrec.lab.blind.judgement_artifact import write_judgement
from xrec.lab.blind.sheet import PAGE, Sheet, make_sheet, read_sheet, write_sheet

__all__ = [
    "PAGE",
    "Sheet",
    "answered_sheet",
    "judge",
    "make_sheet",
    "read_answers",
    "read_sheet",
    "write_judgement",
    "write_sheet",
]

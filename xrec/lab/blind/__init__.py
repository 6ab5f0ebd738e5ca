"""People as judges: a page of texts without names, and what the answers say.

sheet       which pairs and texts stand on the page, and in which order; the page, the key, answers
judgement   mean ratings, wins against the first entry, agreement
"""

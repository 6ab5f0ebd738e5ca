"""People as judges: a page of texts without names, and what the answers say.

sheet       which pairs and texts stand on the page, and in which order; the page, and the key
answers     the files that people saved, with the key: a rating a person, text and question
judgement   mean ratings, wins against the first contestant, agreement
"""

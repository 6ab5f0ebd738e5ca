"""Which aspects of an item to name to a user, and the reviews that back them.

    mentions     what training reviews mention and praise, of which all counts are made
    neighbours   which items are alike, by the graph of users, items and aspects
    scorer       score(u, i, a)
    fit          trains the scorer's numbers on held-out reviews
    choice       the best aspects of many pairs, with evidence
    artifact     the trained score
    train        the recipe

The formula is in `xrec.aspects.scorer`.
"""

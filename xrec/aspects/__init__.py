"""Which aspects of an item to name to a user, and the reviews that back them.

    mentions     what training reviews mention and praise, of which all counts are made
    scorer       score(u, i, a)
    fit          trains the scorer's numbers on held-out reviews
    choice       the best aspects of many pairs, with evidence
    artifact     the trained score
    train        the recipe, with the items that are alike by the graph

The formula is in `xrec.aspects.scorer`.
"""

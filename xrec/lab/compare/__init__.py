"""Entries write texts for the same held-out pairs; what each is worth and costs, in one table.

    entries       entry x seed, each with a folder below the comparison; the pairs of all
    make          trains what is to be trained, and writes the texts as bulk runs where a model
                  writes them (text_only, copies); texts: how they are kept
    scores        a row of scores a pair
    result        means, spread over seeds, intervals, differences (figures); table: for a reader
    comparison    all of it, from beginning to end
    sheet         blind sheets for people who judge a finished comparison's texts

Whatever is there with the same settings and inputs is taken, at every step: a comparison that was
killed goes on, and one that gets another entry or seed keeps the others.
"""

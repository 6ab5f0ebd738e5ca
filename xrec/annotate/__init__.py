"""From reviews to the texts that everything else begins with.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that the reason speaks of. What is held out is decided before anything is written.

    rows, annotator   what an annotator gets and gives back, and the protocol of one
    source, cells     the reviews of a source, as far as they can be read
    personal          personal data, which is removed from them
    keep, store       which reviews are kept and held out; and where they lie
    reviews           all of that, in order
    formats           the stages, and the columns of their tables
    stages, task      the kinds of text, and what an actor does with some rows of one
    vocabulary        the names of aspects become one vocabulary
    plan, driver      the stages, each a bulk run (xrec.bulk), and what is published
    report            how good the texts are, as far as it can be counted
    read              reads what is published, as the source of a dataset too
    look_ahead        what a run would do, before it does
    phrases, language_model
                      the annotators
"""

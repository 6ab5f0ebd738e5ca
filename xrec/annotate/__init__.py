"""From reviews to the texts that everything else begins with.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that the reason speaks of. What is held out is decided before anything is written.

    rows, annotator   what an annotator gets and gives back, and the protocol of one
    source, cells     the reviews of a source, as far as they can be read
    personal          personal data, which is removed from them
    keep, store       which reviews are kept and held out; and where they lie
    reviews           all of that, in order
    stages, task      the kinds of text, and what an actor does with some rows of one
    vocabulary        the names of aspects become one vocabulary
    plan, run         the stages, each a bulk run (xrec.bulk)
    publish, report   manifest and report of finished annotations
    tables, read      reads them; `read` as the source of a dataset
    phrases           the annotator without a language model
"""

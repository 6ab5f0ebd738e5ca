"""From reviews to the texts that everything else begins with.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that the reason speaks of. What is held out is decided before anything is written.

    rows, annotator   what an annotator gets and gives back, and the protocol of one
    source_files, source, cells
                      the reviews of a source, as far as they can be read
    personal          personal data, which is removed from them
    keep, store       which reviews are kept and held out; and where they lie
    reviews           all of that, in order
    formats           the stages, and the columns of their tables
    stages, task      the kinds of text, and what an actor does with some rows of one
    normalize, vocabulary
                      the names of aspects become one vocabulary
    plan, driver      the stages, each a bulk run (xrec.bulk)
    publish, report   manifest and report of finished annotations
    tables, read      reads them; `read` as the source of a dataset
    look_ahead        what a run would do, before it does
    phrases, language_model
                      the annotators; words has what the first knows of English
"""

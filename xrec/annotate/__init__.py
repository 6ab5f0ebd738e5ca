"""From reviews to the texts that everything else begins with.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that the reason speaks of. What is held out is decided before anything is written.

    annotator         what an annotator gets and gives back, and what a run knows of one
    source, cells     the reviews of a source, as far as they can be read
    keep, store       which reviews are kept and held out; and where they lie
    formats           the tables of the stages, and whose run an output is
    stages            what an actor does with some rows of a stage
    vocabulary        the names of aspects become one vocabulary
    plan, driver      the stages, each a bulk run (xrec.bulk), and what is published
    report            how good the texts are, as far as it can be counted
    read              reads what is published, as the source of a dataset too
    phrases, language_model
                      the annotators
"""

"""From reviews to the texts that everything else begins with.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that the reason speaks of.

    rows, annotator   what an annotator gets and gives back, and the protocol of one
    source, cells     the reviews of a source, as far as they can be read
    personal          personal data, which is removed from them
    keep              which reviews are kept, and which of these are held out
    store             the kept reviews on disk or S3
"""

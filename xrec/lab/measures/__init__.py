"""Metrics of texts: pair by pair, and of all texts of an entry together.

measure       the pairs that are scored, with an entry's texts; what a metric is
overlap       ROUGE, length, coverage; BERTScore's matching by any encoder; BLEU, USR
specificity   own reference against others'
statements    aspects that texts name and what they say of them, against the pair's own review; the
              right aspect of the generated sample
ranking       statements in an order: of texts, popularity, the chooser of aspects
measures      all of them together with the judges
"""

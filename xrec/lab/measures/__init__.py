"""Metrics of texts: pair by pair, and of all texts of an entry together.

measure       the pairs that are scored, with an entry's texts; what a metric is
overlap       ROUGE, length, coverage; BERTScore's matching by any encoder; BLEU, USR
specificity   own reference against others'
aspects       the aspects that texts name; the right aspect of the generated sample
measures      all of them together with the judges
"""

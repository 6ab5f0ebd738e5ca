"""Metrics of texts: pair by pair, and of all texts of a contestant together.

contestant_texts   the pairs that are scored, with one contestant's texts
overlap            ROUGE, length, coverage
embedding          BERTScore's matching by any encoder
specificity        own reference against others'
aspects            the aspects that texts name against their reference's
planted            the right aspect of the generated sample
corpus             BLEU, USR
measures           all of them together with the judges
"""

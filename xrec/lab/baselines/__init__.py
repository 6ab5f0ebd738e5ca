"""Baselines: published models that explain recommendations, and low-rank weights.

`train` makes a trained baseline of a dataset, and `texts` writes its texts for pairs.
"""

"""Baselines: published models that explain recommendations, and low-rank weights.

`train` trains a baseline on a dataset, and `texts` writes its texts for pairs.
"""

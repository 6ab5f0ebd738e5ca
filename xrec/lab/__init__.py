"""The lab: what measures the method beside others. Only its own command imports it.

baselines    published models that explain recommendations, and low-rank weights
compare      entries write texts for the same held-out pairs: one table
measures     metrics of texts, pair by pair and of all texts together, and judges of them
"""

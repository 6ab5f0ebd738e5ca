"""The lab: what measures the method beside others. Only its own command imports it.

baselines    published models that explain recommendations: trained, and their texts
compare      entries write texts for the same held-out pairs: one table
measures     metrics of texts, pair by pair and of all texts together
judge        language models as judges of texts
"""

"""Metrics of texts: pair by pair, and of all texts of an entry together; `measures` has all."""

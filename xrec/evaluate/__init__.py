"""Evaluation of explanations: scores of held-out pairs, metrics, and the artifact."""

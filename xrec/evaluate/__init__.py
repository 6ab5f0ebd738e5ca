"""How good explanations are: scores of held-out pairs, their metrics, the evaluation artifact."""

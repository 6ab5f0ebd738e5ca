"""Training on Ray Train workers with DeepSpeed engines; `adapter.py`, `graph.py` are recipes."""
